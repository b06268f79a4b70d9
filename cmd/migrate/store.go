package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The default store. Received pages must not reach a disk and must come back
// fast, so the store is a tmpfs. That of /run, where it would be otherwise, is
// limited to a fifth or a tenth of the memory on many distributions, too little
// for the one large workload of a host; so the agent mounts a tmpfs of its own
// that may take all of the memory. Preflight, not the file system, keeps
// migrations within what is free.
//
// A mount that a killed agent left is used again, and unmounted at the end of
// the agent that uses it, unless pages of an unfinished migration are in it.

// storeSource is the mount's source in /proc/self/mountinfo: how an agent
// knows a mount of another one.
const storeSource = "migrate-store"

// mountStore makes dir ready: in memory, and large.
func mountStore(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("sysinfo: %w", err)
	}
	memory := info.Totalram * uint64(info.Unit)
	if roomy, err := hasRoom(dir, memory); roomy || err != nil {
		return err
	}
	err := unix.Mount(storeSource, dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, fmt.Sprintf("mode=0700,size=%d", memory))
	if err != nil {
		return fmt.Errorf("mounting the store on %s: %w", dir, err)
	}
	return nil
}

// hasRoom reports whether dir is in memory on a file system that may take at
// least two fifths of it: what a tmpfs may take by default, half, with slack.
func hasRoom(dir string, memory uint64) (bool, error) {
	ok, err := inMemory(dir)
	if !ok || err != nil {
		return false, err
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return false, err
	}
	return s.Blocks == 0 || s.Blocks*uint64(s.Bsize) >= memory/5*2, nil // ramfs has no limit and says 0
}

// inMemory reports whether dir is on a tmpfs or a ramfs.
func inMemory(dir string) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return false, fmt.Errorf("file system of %s: %w", dir, err)
	}
	return s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC, nil
}

// unmountStore unmounts what mountStore mounted, if nothing is in it.
func unmountStore(dir string) error {
	ours, err := storeMounted(dir)
	if !ours || err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return err // pages of a migration that the next agent goes on with
	}
	if err := unix.Unmount(dir, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// storeMounted reports whether dir is a mount that mountStore made.
func storeMounted(dir string) (bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if point, source := mountOf(lines.Text()); point == dir && source == storeSource {
			return true, nil
		}
	}
	return false, lines.Err()
}

// mountOf reads mount point and source from a line of mountinfo (proc(5)):
// field 5, and the second one after the "-".
func mountOf(line string) (point, source string) {
	head, tail, _ := strings.Cut(line, " - ")
	left, right := strings.Fields(head), strings.Fields(tail)
	if len(left) < 5 || len(right) < 2 {
		return "", ""
	}
	// Blanks and backslashes are octal there; no other byte is changed.
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(left[4]), right[1]
}
