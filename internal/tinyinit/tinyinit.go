// Package tinyinit carries a small static program that stands where a Go
// program cannot: as the init of a workload's PID namespace, where it is moved
// along with the workload, and in front of a program that joins a running
// workload. The binary is committed for each architecture and built from
// c/init.c, without a C library; c/build.sh makes it again.
//
// It has two modes:
//
//	init -- PROGRAM ARGS...
//
// is PID 1 of a PID namespace, in front of a program that is not made to be
// one. It starts PROGRAM in a process group of its own (in the foreground, if
// standard input is the controlling terminal), forwards HUP, INT, QUIT, USR1,
// USR2, TERM, CONT and WINCH to it, reaps every orphan, and exits as PROGRAM
// did: its status, or 128 plus the signal's number.
//
//	enter [--cgroup DIR]... [--ns FD]... [--setsid] [--tty] -- PROGRAM ARGS...
//
// joins cgroups and namespaces and runs PROGRAM in them. It exists because
// setns(2) into a time namespace needs a caller with a single thread, which no
// Go program is. A caller that has nothing left to do replaces itself with it
// (execve), so that a shell's job control meets PROGRAM.
//
// Both print one line to standard error and exit 127 when PROGRAM cannot be
// executed, or a cgroup or namespace not joined, and 2 when called wrongly.
// PROGRAM is looked up in PATH unless it holds a slash.
//
//go:generate c/build.sh
package tinyinit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"migrate/internal/atomicfile"
)

// Name returns the file name under which [Install] puts the program. It is
// derived from the content: hosts with the same name hold the same bytes, which
// a restore of a workload that runs it depends on.
var Name = sync.OnceValue(func() string {
	sum := sha256.Sum256(blob)
	return "init-" + hex.EncodeToString(sum[:8])
})

// Install puts the program into dir, which it makes if need be, and returns its
// path. A file that is there already and right is left alone; anything else is
// replaced atomically, which does not disturb a process that runs the old one.
func Install(dir string) (string, error) {
	path := filepath.Join(dir, Name())
	if installed(path) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("installing the tiny init: %w", err)
	}
	if err := atomicfile.WriteFile(path, blob, 0o755); err != nil {
		return "", fmt.Errorf("installing the tiny init: %w", err)
	}
	return path, nil
}

func installed(path string) bool {
	got, err := os.ReadFile(path)
	if err != nil || string(got) != string(blob) {
		return false
	}
	fi, err := os.Stat(path)
	return err == nil && fi.Mode() == 0o755
}

// InitArgs returns the argument vector that runs argv under the program at path.
func InitArgs(path string, argv []string) []string {
	return append([]string{path, "init", "--"}, argv...)
}

// Enter says what a program that joins a workload enters, in this order:
// cgroups, then namespaces as they are listed.
type Enter struct {
	Cgroups []string // directories, as the caller sees them
	// Namespaces are open descriptors of namespace files, inherited by the
	// program, which closes them. A user namespace must come first and a mount
	// namespace last.
	Namespaces []int
	Session    bool // in a session of its own
	Terminal   bool // in a session of its own, whose controlling terminal is standard input
}

// EnterArgs returns the argument vector that runs argv inside what e says.
func EnterArgs(path string, e Enter, argv []string) []string {
	args := []string{path, "enter"}
	for _, dir := range e.Cgroups {
		args = append(args, "--cgroup", dir)
	}
	for _, fd := range e.Namespaces {
		args = append(args, "--ns", strconv.Itoa(fd))
	}
	if e.Session {
		args = append(args, "--setsid")
	}
	if e.Terminal {
		args = append(args, "--tty")
	}
	return append(append(args, "--"), argv...)
}
