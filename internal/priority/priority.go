// Package priority runs work that should give way to the programs of a host,
// and work that one of them stands still for.
package priority

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Nice values (sched(7)): of a busy processor the low one gets a tenth of what
// others get, the high one ten times as much. On an idle one both get all.
const (
	low  = 10
	high = -10
)

// Low runs f at a low priority, and returns what it does. Goroutines that f
// starts have the usual priority; programs that it starts have the low one.
func Low(f func() error) error { return run(low, f) }

// High is [Low] for work that shortens a downtime.
func High(f func() error) error { return run(high, f) }

func run(nice int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()                           // the thread ends with the goroutine
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, nice) // 0 is the calling thread; where it is refused nothing is lost
		done <- f()
	}()
	return <-done
}

// Raise gives a program the high priority, with all that it starts from then on.
func Raise(pid int) {
	_ = unix.Setpriority(unix.PRIO_PROCESS, pid, high) // where it is refused nothing is lost
}
