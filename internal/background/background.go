// Package background runs work that should give way to the programs of a host.
package background

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// nice is how far the work steps back: of a busy processor it gets a tenth of
// what others get (sched(7)), of an idle one all.
const nice = 10

// Run runs f at a low priority, and returns what it does. Goroutines that f
// starts have the usual priority; programs that it starts have the low one.
func Run(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()                           // the thread ends with the goroutine
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, nice) // 0 is the calling thread; where it is refused nothing is lost
		done <- f()
	}()
	return <-done
}
