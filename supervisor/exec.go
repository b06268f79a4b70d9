package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"migrate/internal/tinyinit"
	"migrate/workload"
)

// namespaces are the kinds in the order of joining them: user first, as it
// gives the rights to the others, and mount last, as it hides the rest.
var namespaces = []string{"user", "cgroup", "ipc", "uts", "net", "time", "pid", "mnt"}

// ExecCommand returns a command that runs argv beside the workload's root: in
// its cgroup and in all its namespaces, the time namespace included, without
// which its clocks would be others and the workload could not be moved while it runs.
//
// It starts the tiny init, which is installed in the state directory for it.
// With tty the program gets a session of its own, whose controlling terminal is
// standard input, which the caller sets to a terminal's slave; else it stays in
// the caller's session. The caller sets the rest of the command, starts it, and
// then closes its ExtraFiles.
func ExecCommand(ctx context.Context, stateDir string, rec workload.Record, argv []string, tty bool) (*exec.Cmd, error) {
	cmd, err := execCommand(ctx, stateDir, rec, argv, tty)
	if err != nil {
		return nil, fmt.Errorf("entering workload %s: %w", rec.Name, err)
	}
	return cmd, nil
}

func execCommand(ctx context.Context, stateDir string, rec workload.Record, argv []string, tty bool) (*exec.Cmd, error) {
	root := rec.LiveRoot()
	if root == 0 {
		return nil, errors.New("it does not run")
	}
	init, err := tinyinit.Install(filepath.Join(stateDir, "bin"))
	if err != nil {
		return nil, err
	}
	files, err := foreignNamespaces(root)
	if err != nil {
		return nil, err
	}
	if rec.LiveRoot() != root { // those files may be another's
		closeAll(files)
		return nil, errors.New("it has just ended")
	}
	e := tinyinit.Enter{Terminal: tty}
	if rec.Cgroup != "" {
		e.Cgroups = []string{rec.Cgroup}
	}
	for i := range files {
		e.Namespaces = append(e.Namespaces, 3+i) // as exec.Cmd numbers ExtraFiles
	}
	args := tinyinit.EnterArgs(init, e, argv)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.ExtraFiles = files
	cmd.Dir = rec.Dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it passes that on
	return cmd, nil
}

// foreignNamespaces opens the namespaces of pid that are not the caller's.
func foreignNamespaces(pid int) ([]*os.File, error) {
	var files []*os.File
	for _, kind := range namespaces {
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
		theirs, err := os.Readlink(path)
		if errors.Is(err, os.ErrNotExist) && kind == "time" {
			continue // Linux before 5.6
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		if ours, err := os.Readlink("/proc/self/ns/" + kind); err == nil && ours == theirs {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
