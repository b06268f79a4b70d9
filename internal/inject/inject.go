package inject

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Timeout is how long a thread may take to stop, and an injected system call to
// return. A thread in an uninterruptible wait, such as that of vfork(2), does
// not stop, and one that a cgroup freezer holds does not run.
const Timeout = 500 * time.Millisecond

// leastLooks is how often it is looked for a stop before that counts: where the
// processors are busy, the time may be over before the thread, or we, have run.
const leastLooks = 1000

// ErrTimeout says that a thread did not stop in time. It runs on untouched.
var ErrTimeout = errors.New("the thread does not stop")

// Thread is a stopped thread of another process, by which system calls can be
// made there. The process's other threads run. It may be used by one goroutine
// at a time.
type Thread struct {
	tid   int
	calls chan func() // run by the tracer, the only thread that may use ptrace on this one
	saved registers
	mask  uint64 // of blocked signals
	entry uint64 // address of a system call instruction
	rseq  restartable
}

// Stop stops the first thread of the process. It needs CAP_SYS_PTRACE, and
// CAP_SYS_ADMIN to get past a seccomp filter of the process. The error wraps
// [unix.ESRCH] if the process, or only that thread, has ended. Without an error
// [Thread.Resume] must be called after.
func Stop(pid int) (*Thread, error) {
	entry, err := findSyscall(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("stopping process %d: %w", pid, err)
	}
	t := &Thread{tid: pid, entry: entry, calls: make(chan func())}
	go t.trace()
	if t.do(func() { err = t.stop() }); err != nil {
		close(t.calls)
		awaitUntraced(pid)
		return nil, fmt.Errorf("stopping process %d: %w", pid, err)
	}
	return t, nil
}

// awaitUntraced waits until a thread that did not stop has lost its tracer, whose end
// takes its time: until then nobody can try again (EPERM). One that is another's
// from the start keeps it.
func awaitUntraced(tid int) {
	for begun := time.Now(); time.Since(begun) < Timeout; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
		if err != nil || strings.Contains(string(status), "\nTracerPid:\t0\n") {
			return
		}
	}
}

// trace runs calls on a system thread of its own, and ends with it: the kernel
// then lets go of whatever is still traced. The process's first thread would not
// end, so it is held back while another serves.
func (t *Thread) trace() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		served := make(chan struct{})
		go func() {
			defer close(served)
			t.trace()
		}()
		<-served
		runtime.UnlockOSThread()
		return
	}
	for f := range t.calls {
		f()
	}
}

func (t *Thread) do(f func()) {
	done := make(chan struct{})
	t.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// stop seizes and interrupts the thread. A signal that was just being delivered
// is let through, with all that the kernel knows of it: the stop comes after.
func (t *Thread) stop() error {
	if err := t.seize(); err != nil {
		return err
	}
	if err := unix.PtraceInterrupt(t.tid); err != nil {
		return err
	}
	if err := t.await(unix.PTRACE_CONT, func(s unix.WaitStatus) bool { return int(s)>>16 == unix.PTRACE_EVENT_STOP }); err != nil {
		return err
	}
	if err := t.save(); err != nil {
		return errors.Join(err, t.detach())
	}
	return nil
}

// seize asks for no seccomp filter; where it may not, a filter decides.
func (t *Thread) seize() error {
	err := ptrace(unix.PTRACE_SEIZE, t.tid, 0, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_SUSPEND_SECCOMP)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		err = ptrace(unix.PTRACE_SEIZE, t.tid, 0, unix.PTRACE_O_TRACESYSGOOD)
	}
	return err
}

// save keeps what Resume puts back, and blocks all signals: no handler may run
// on top of an injected call.
func (t *Thread) save() (err error) {
	if t.saved, err = getRegisters(t.tid); err != nil {
		return err
	}
	if !isSyscall(t.tid, t.entry) { // it has executed another program meanwhile
		if t.entry, err = findSyscall(t.tid); err != nil {
			return err
		}
	}
	t.rseq = getRestartable(t.tid)
	if err := ptraceAt(unix.PTRACE_GETSIGMASK, t.tid, 8, unsafe.Pointer(&t.mask)); err != nil {
		return err
	}
	return t.setMask(^uint64(0))
}

func (t *Thread) setMask(mask uint64) error {
	return ptraceAt(unix.PTRACE_SETSIGMASK, t.tid, 8, unsafe.Pointer(&mask))
}

// Syscall makes the process execute a system call, with at most six arguments,
// which must return soon. The error is its errno, or says that the process ended
// or did not answer; then only Resume may follow.
func (t *Thread) Syscall(nr uintptr, args ...uintptr) (result uintptr, err error) {
	if len(args) > 6 {
		return 0, unix.EINVAL
	}
	t.do(func() { result, err = t.syscall(nr, args) })
	return result, err
}

func (t *Thread) syscall(nr uintptr, args []uintptr) (uintptr, error) {
	if err := t.saved.call(t.entry, nr, args).set(t.tid); err != nil {
		return 0, err
	}
	atSyscall := func(s unix.WaitStatus) bool { return s.StopSignal() == unix.SIGTRAP|0x80 }
	for range 2 { // it stops at the entry and at the exit
		if err := ptrace(unix.PTRACE_SYSCALL, t.tid, 0, 0); err != nil {
			return 0, err
		}
		if err := t.await(unix.PTRACE_SYSCALL, atSyscall); err != nil {
			return 0, err
		}
	}
	now, err := getRegisters(t.tid)
	if err != nil {
		return 0, err
	}
	const maxErrno = 4095
	if r := now.result(); r <= -1 && r >= -maxErrno {
		return 0, unix.Errno(-r)
	}
	return uintptr(now.result()), nil
}

// Resume lets the thread go on where it was. That the process has ended is no
// error.
func (t *Thread) Resume() (err error) {
	t.do(func() { err = t.resume() })
	close(t.calls)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (t *Thread) resume() error {
	err := errors.Join(t.rseq.put(), t.saved.set(t.tid), t.saved.forget(t.tid), t.setMask(t.mask), t.detach())
	if err != nil {
		return fmt.Errorf("resuming thread %d: %w", t.tid, err)
	}
	return nil
}

func (t *Thread) detach() error { return ptrace(unix.PTRACE_DETACH, t.tid, 0, 0) }

// await waits for a stop of the thread that is the one. From others it is sent on
// by request, with the signal that it was about to receive: SIGSTOP and SIGKILL
// cannot be blocked.
func (t *Thread) await(request int, is func(unix.WaitStatus) bool) error {
	begun := time.Now()
	for looks := 0; looks < leastLooks || time.Since(begun) < Timeout; looks++ {
		var status unix.WaitStatus
		got, err := unix.Wait4(t.tid, &status, unix.WALL|unix.WNOHANG, nil)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case got != t.tid:
			if time.Since(begun) > 50*time.Microsecond { // it mostly comes sooner
				_ = unix.Nanosleep(&unix.Timespec{Nsec: 10_000}, nil) // cut short is as good
			}
			continue
		case !status.Stopped():
			return unix.ESRCH
		case is(status):
			return nil
		}
		signal := uintptr(status.StopSignal())
		if int(status)>>16 == unix.PTRACE_EVENT_STOP {
			signal = 0 // a stop of the whole process, which it stays in after all
		}
		if err := ptrace(request, t.tid, 0, signal); err != nil {
			return err
		}
	}
	return ErrTimeout
}

func ptrace(request, tid int, addr, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// ptraceAt is ptrace with an address in this process.
func ptraceAt(request, tid int, addr uintptr, data unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, uintptr(data), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
