package testload

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// timers are a timerfd and a Go ticker on CLOCK_MONOTONIC.
type timers struct {
	mu      sync.Mutex
	fd      int
	start   time.Time
	expired uint64 // of the timerfd, as the kernel counts
	ticked  uint64 // of the Go ticker
}

const timerInterval = 20 * time.Millisecond

func newTimers() (*timers, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	t := &timers{fd: fd, start: time.Now()}
	every := unix.NsecToTimespec(int64(timerInterval))
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		return nil, fmt.Errorf("set timerfd: %w", err)
	}
	return t, nil
}

// watch fails when the timer fires more often than the clock allows.
func (t *timers) watch(fail func(error)) {
	go func() {
		for range time.Tick(timerInterval) {
			t.mu.Lock()
			t.ticked++
			t.mu.Unlock()
		}
	}()
	var b [8]byte
	for {
		n, err := unix.Read(t.fd, b[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != len(b) {
			fail(fmt.Errorf("read timerfd: %d bytes, %w", n, err))
			return
		}
		if err := t.fired(b); err != nil {
			fail(err)
		}
	}
}

func (t *timers) fired(count [8]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expired += binary.NativeEndian.Uint64(count[:])
	if most := uint64(time.Since(t.start)/timerInterval) + 1; t.expired > most {
		return fmt.Errorf("timer fired %d times in the time for %d", t.expired, most)
	}
	return nil
}

func (t *timers) read() (expired, ticked uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expired, t.ticked
}
