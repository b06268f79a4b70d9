package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A fileLock is a line of /proc/locks (proc_locks(5)).
type fileLock struct {
	pid   int // that took it; -1 of an open file description's
	write bool
	text  string // names it among others
}

// parseLock reads "N: TYPE MODE ACCESS PID FILE FROM TO". One that is only
// waited for has an arrow before its type and is not ok, nor is a lease, which
// hinders nobody.
func parseLock(line string) (l fileLock, ok bool) {
	f := strings.Fields(line)
	if len(f) < 5 || !slices.Contains([]string{"POSIX", "FLOCK", "OFDLCK"}, f[1]) {
		return l, false
	}
	pid, err := strconv.Atoi(f[4])
	return fileLock{pid, f[3] == "WRITE", strings.Join(f[1:], " ")}, err == nil
}

// locks are file locks that processes hold, by their texts.
type locks map[string]bool

// add adds the locks that text tells of and that count: all, or those for
// writing.
func (l locks) add(text string, write bool, counts func(fileLock) bool) {
	for line := range strings.Lines(text) {
		lock, ok := parseLock(strings.TrimPrefix(line, "lock:"))
		if ok && (lock.write || !write) && counts(lock) {
			l[lock.text] = true
		}
	}
}

// heldBy returns the locks of some processes.
func heldBy(pids []int, write bool) (locks, error) {
	b, err := os.ReadFile("/proc/locks")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without file locks
	}
	if err != nil {
		return nil, err
	}
	held, shared := locks{}, false
	held.add(string(b), write, func(l fileLock) bool {
		shared = shared || l.pid == -1 // of whatever process
		return slices.Contains(pids, l.pid)
	})
	if shared {
		for _, pid := range pids {
			held.addDescriptors(pid, write)
		}
	}
	return held, nil
}

// addDescriptors adds the locks of the open files of a process
// (proc_pid_fdinfo(5)).
func (l locks) addDescriptors(pid int, write bool) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid)) // the pattern is sound
	for _, path := range files {
		if b, err := os.ReadFile(path); err == nil { // or it has been closed
			l.add(string(b), write, func(fileLock) bool { return true })
		}
	}
}

// beside returns the locks that others does not have.
func (l locks) beside(others locks) locks {
	rest := maps.Clone(l)
	maps.DeleteFunc(rest, func(text string, _ bool) bool { return others[text] })
	return rest
}

// A lock that is there every time is held for good.
const (
	lockLooks = 10
	lockPause = 10 * time.Millisecond
)

// standing returns the locks that processes hold for good. It takes no time
// if they hold none.
func standing(ctx context.Context, pids []int, write bool) (locks, error) {
	always, err := heldBy(pids, write)
	for range lockLooks {
		if err != nil || len(always) == 0 {
			break
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		var now locks
		now, err = heldBy(pids, write)
		always = always.beside(always.beside(now))
	}
	return always, err
}
