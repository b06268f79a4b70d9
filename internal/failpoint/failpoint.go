// Package failpoint lets a test stop a real process at a named place, to see
// what the rest of the system makes of it. It is a seam for the crash matrix
// and has no effect unless the environment asks for it:
//
//	MIGRATE_FAILPOINT=commit.journaled          stop (SIGSTOP) where that name is reached
//	MIGRATE_FAILPOINT=held.sent=kill,freeze     kill at one place, stop at another
//	MIGRATE_FAILPOINT_LOG=FILE                  append "failpoint NAME" to FILE first
//
// A stopped process keeps its sockets, locks and children, as one on a host
// that hangs does; the test then kills it, or lets it go on with SIGCONT. The
// log tells the test that the place was reached.
//
// In production the variables are absent and Reach costs one load.
package failpoint

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// points is read once; nil, which every lookup misses, without the variable.
var points = parse(os.Getenv("MIGRATE_FAILPOINT"))

// point is what happens at one place, once per process.
type point struct {
	signal syscall.Signal
	once   sync.Once
}

// Reach is called where a test may want the process to end or hang. It is safe
// for concurrent use; the first call of a name takes the effect, and if the
// process is continued later calls of it have none.
func Reach(name string) {
	if points == nil {
		return
	}
	if p := points[name]; p != nil {
		p.once.Do(func() { fire(name, p.signal) })
	}
}

// parse reads a list of NAME or NAME=kill.
func parse(list string) map[string]*point {
	var m map[string]*point
	for item := range strings.SplitSeq(list, ",") {
		name, action, _ := strings.Cut(strings.TrimSpace(item), "=")
		if name == "" {
			continue
		}
		if m == nil {
			m = make(map[string]*point)
		}
		m[name] = &point{signal: signalOf(action)}
	}
	return m
}

func signalOf(action string) syscall.Signal {
	if action == "kill" {
		return syscall.SIGKILL
	}
	return syscall.SIGSTOP
}

// fire logs and sends the signal to the whole process. Trouble with the log is
// told on stderr: a test that waits for the line needs to know why none came.
func fire(name string, sig syscall.Signal) {
	if err := log(name); err != nil {
		fmt.Fprintln(os.Stderr, "failpoint:", err)
	}
	// A signal for the process may go to another thread, and this one would run
	// on for a while; one for this thread takes effect before the call returns,
	// and both signals are for all threads then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Tgkill(os.Getpid(), unix.Gettid(), sig); err != nil {
		fmt.Fprintln(os.Stderr, "failpoint: signalling itself:", err)
	}
}

func log(name string) error {
	path := os.Getenv("MIGRATE_FAILPOINT_LOG")
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "failpoint %s\n", name)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
