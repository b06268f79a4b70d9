package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A fileLock is a line of /proc/locks (proc_locks(5)).
type fileLock struct {
	pid   int // that took it; -1 of an open file description's
	write bool
}

// parseLock reads "N: TYPE MODE ACCESS PID …". One that is only waited for
// has an arrow before its type and is not ok, nor is a lease, which hinders nobody.
func parseLock(line string) (l fileLock, ok bool) {
	f := strings.Fields(line)
	if len(f) < 5 || !slices.Contains([]string{"POSIX", "FLOCK", "OFDLCK"}, f[1]) {
		return l, false
	}
	pid, err := strconv.Atoi(f[4])
	return fileLock{pid, f[3] == "WRITE"}, err == nil
}

// holdLock reports whether one of the processes holds a file lock: any, or one
// that is for writing.
func holdLock(pids []int, write bool) (bool, error) {
	b, err := os.ReadFile("/proc/locks")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a kernel without file locks
	}
	if err != nil {
		return false, err
	}
	shared := false // some open file description, of whatever process, has a lock
	for line := range strings.Lines(string(b)) {
		l, ok := parseLock(line)
		if !ok || write && !l.write {
			continue
		}
		if slices.Contains(pids, l.pid) {
			return true, nil
		}
		shared = shared || l.pid == -1
	}
	if !shared {
		return false, nil
	}
	return slices.ContainsFunc(pids, func(pid int) bool { return descriptorLocked(pid, write) }), nil
}

// descriptorLocked reports whether a descriptor of the process has a lock
// (proc_pid_fdinfo(5)).
func descriptorLocked(pid int, write bool) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid)) // the pattern is sound
	return slices.ContainsFunc(files, func(path string) bool {
		b, err := os.ReadFile(path)
		return err == nil && slices.ContainsFunc(strings.Split(string(b), "\n"), func(line string) bool {
			lock, found := strings.CutPrefix(line, "lock:")
			l, ok := parseLock(lock)
			return found && ok && (l.write || !write)
		})
	})
}
