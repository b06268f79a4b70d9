package testload

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// timers are a timerfd and a Go ticker on CLOCK_MONOTONIC.
//
// The timerfd is set anew each time it has fired. One with an interval that
// expires while the process is frozen, and so is not read, has no time left in
// /proc/PID/fdinfo; CRIU 4.2 sets it to that, which stops it for good.
type timers struct {
	mu     sync.Mutex
	fd     int
	due    time.Time
	fired  uint64
	ticked uint64 // of the Go ticker
}

const timerInterval = 50 * time.Millisecond

func newTimers() (*timers, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	t := &timers{fd: fd}
	return t, t.set()
}

func (t *timers) set() error {
	t.due = time.Now().Add(timerInterval)
	once := &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(timerInterval))}
	if err := unix.TimerfdSettime(t.fd, 0, once, nil); err != nil {
		return fmt.Errorf("set timerfd: %w", err)
	}
	return nil
}

// watch waits for the timer for ever, and fails when it fires early.
func (t *timers) watch(fail func(error)) {
	go t.tick()
	var b [8]byte
	for {
		if _, err := unix.Read(t.fd, b[:]); err == unix.EINTR {
			continue
		} else if err != nil {
			fail(fmt.Errorf("read timerfd: %w", err))
			return
		}
		if err := t.fire(binary.NativeEndian.Uint64(b[:])); err != nil {
			fail(err)
		}
	}
}

func (t *timers) tick() {
	for range time.Tick(timerInterval) {
		t.mu.Lock()
		t.ticked++
		t.mu.Unlock()
	}
}

func (t *timers) fire(times uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fired++
	early := time.Until(t.due)
	if err := t.set(); err != nil {
		return err
	}
	if times != 1 || early > 0 {
		return fmt.Errorf("timer fired %d times, %s too early", times, early)
	}
	return nil
}

func (t *timers) read() (fired, ticked uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fired, t.ticked
}
