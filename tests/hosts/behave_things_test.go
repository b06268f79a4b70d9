package hosts

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// things is a process with one of everything that a move must carry over.
type things struct {
	dir      string
	deleted  *os.File
	appended *os.File
	queue    [2]int // a socket pair with bytes in flight
	child    int    // our end of a socket whose other end a child echoes
	pipe     [2]int // holds pipeBytes
	named    [2]int // both ends of a connection to a named socket
	locks    []*os.File
	threads  [200]atomic.Int64
	wrong    atomic.Pointer[string]
	counts   struct{ ticks, alarms, posix, absolute atomic.Int64 }
}

// seen is what it says of itself when asked.
type seen struct {
	Wrong    []string `json:"wrong"`
	Ticks    int64    `json:"ticks"` // of a periodic timerfd
	Alarms   int64    `json:"alarms"`
	Posix    int64    `json:"posix"`
	Absolute int64    `json:"absolute"`
	Threads  int      `json:"threads"`
}

const (
	pipeBytes    = 1 << 20
	deletedBytes = 3 << 20
	queueBytes   = 100 << 10
	hugeBytes    = 64 << 30
)

// pattern is different at every offset within a few MiB.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(i)*0x9e3779b97f4a7c15)
	}
	return b
}

func (h *things) fail(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	h.wrong.CompareAndSwap(nil, &s)
}

// helpThings sets everything up in args[0] and answers questions that are put
// there as files. args[1] is a file to lock.
func helpThings(args []string) error {
	h := &things{dir: args[0]}
	for _, step := range []func() error{
		h.openFiles, h.openSockets, h.openPipe, h.reserve, func() error { return h.lock(args[1]) },
		h.startThreads, h.startTimerFD, h.startAbsolute, h.startAlarms,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	for n := 1; ; n++ {
		ask, answer := filepath.Join(h.dir, fmt.Sprintf("ask.%d", n)), filepath.Join(h.dir, fmt.Sprintf("answer.%d", n))
		for {
			if _, err := os.Stat(ask); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		b, err := json.Marshal(h.check())
		if err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(answer+".new", b, 0o600), os.Rename(answer+".new", answer)); err != nil {
			return err
		}
	}
}

func (h *things) openFiles() (err error) {
	if h.deleted, err = os.Create(filepath.Join(h.dir, "deleted")); err != nil {
		return err
	}
	if _, err := h.deleted.Write(pattern(deletedBytes)); err != nil {
		return err
	}
	if err := os.Remove(h.deleted.Name()); err != nil {
		return err
	}
	h.appended, err = os.OpenFile(filepath.Join(h.dir, "appended"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	go func() {
		for n := 1; err == nil; n++ {
			fmt.Fprintf(h.appended, "%d\n", n)
			time.Sleep(time.Millisecond)
		}
	}()
	return err
}

func (h *things) openSockets() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	h.queue = pair
	theirs, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	h.child = theirs[0]
	if _, err := spawn(nil, []uintptr{0, 1, 2, uintptr(theirs[1])}, helper("echo")...); err != nil {
		return err
	}
	unix.Close(theirs[1])
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	path := &unix.SockaddrUnix{Name: filepath.Join(h.dir, "s")}
	if err := errors.Join(unix.Bind(l, path), unix.Listen(l, 5)); err != nil {
		return err
	}
	if h.named[0], err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err != nil {
		return err
	}
	if err := unix.Connect(h.named[0], path); err != nil {
		return err
	}
	if h.named[1], _, err = unix.Accept(l); err != nil {
		return err
	}
	return h.fillQueue()
}

func (h *things) fillQueue() error { return writeAll(h.queue[0], pattern(queueBytes)) }

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

func readAll(fd, n int) ([]byte, error) {
	b := make([]byte, n)
	for got := 0; got < n; {
		m, err := unix.Read(fd, b[got:])
		if err != nil && err != unix.EINTR {
			return nil, err
		}
		if m == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		got += max(m, 0)
	}
	return b, nil
}

func (h *things) openPipe() error {
	if err := unix.Pipe2(h.pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(h.pipe[1]), unix.F_SETPIPE_SZ, pipeBytes); err != nil {
		return err
	}
	return writeAll(h.pipe[1], pattern(pipeBytes))
}

func (h *things) reserve() error {
	_, err := unix.MmapPtr(-1, 0, nil, hugeBytes, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	return err
}

func (h *things) lock(path string) error {
	for _, lock := range []func(fd int) error{
		func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) },
		func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10})
		},
	} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		h.locks = append(h.locks, f)
		if err := lock(int(f.Fd())); err != nil {
			return err
		}
	}
	return nil
}

func (h *things) startThreads() error {
	for i := range h.threads {
		go func() {
			runtime.LockOSThread()
			h.threads[i].Store(int64(unix.Gettid()))
			for {
				unix.Nanosleep(&unix.Timespec{Nsec: 50e6}, nil)
				if int64(unix.Gettid()) != h.threads[i].Load() {
					h.fail("thread %d has become %d", h.threads[i].Load(), unix.Gettid())
				}
			}
		}()
	}
	return nil
}

// startTimerFD starts a fast periodic one: any freeze meets it expired.
func (h *things) startTimerFD() error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return err
	}
	every := unix.NsecToTimespec(1e6)
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: every, Interval: every}, nil); err != nil {
		return err
	}
	go func() {
		for {
			b, err := readAll(fd, 8)
			if err != nil {
				h.fail("timerfd: %v", err)
				return
			}
			n := binary.NativeEndian.Uint64(b)
			if n == 0 || n > 1e5 {
				h.fail("timerfd told of %d ticks at once", n)
			}
			h.counts.ticks.Add(int64(n))
		}
	}()
	return nil
}

// startAbsolute keeps setting a timer to an absolute time, and complains if it
// comes early.
func (h *things) startAbsolute() error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return err
	}
	go func() {
		for {
			due := monotonic() + 400e6
			err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME, &unix.ItimerSpec{Value: unix.NsecToTimespec(due)}, nil)
			if err == nil {
				_, err = readAll(fd, 8)
			}
			if err != nil {
				h.fail("absolute timerfd: %v", err)
				return
			}
			// What the outage adds to the clock is known up to a bound.
			if early := due - monotonic(); early > 5e6 {
				h.fail("an absolute timer expired %v too early", time.Duration(early))
			}
			h.counts.absolute.Add(1)
		}
	}()
	return nil
}

// startAlarms starts an interval timer and a POSIX timer.
func (h *things) startAlarms() error {
	alarms, posix := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(alarms, unix.SIGALRM)
	signal.Notify(posix, unix.SIGUSR2)
	go func() {
		for {
			select {
			case <-alarms:
				h.counts.alarms.Add(1)
			case <-posix:
				h.counts.posix.Add(1)
			}
		}
	}()
	every := unix.Timeval{Usec: 5000}
	if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Value: every, Interval: every}); err != nil {
		return err
	}
	event := struct { // struct sigevent
		value  uint64
		signal int32
		notify int32 // SIGEV_SIGNAL
		pad    [48]byte
	}{signal: int32(unix.SIGUSR2)}
	var id int32
	if _, _, e := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id))); e != 0 {
		return e
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(5e6), Interval: unix.NsecToTimespec(5e6)}
	if _, _, e := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// check looks at everything and makes it ready for the next move.
func (h *things) check() seen {
	s := seen{Wrong: []string{}}
	for name, f := range map[string]func() error{
		"deleted file": h.checkDeleted, "appended file": h.checkAppended, "socket pair": h.checkQueue,
		"child": h.checkChild, "named socket": h.checkNamed, "pipe": h.checkPipe, "reservation": checkReserved,
	} {
		if err := f(); err != nil {
			s.Wrong = append(s.Wrong, name+": "+err.Error())
		}
	}
	if w := h.wrong.Load(); w != nil {
		s.Wrong = append(s.Wrong, *w)
	}
	s.Ticks, s.Alarms, s.Posix, s.Absolute = h.counts.ticks.Load(), h.counts.alarms.Load(), h.counts.posix.Load(), h.counts.absolute.Load()
	for i := range h.threads {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", h.threads[i].Load())); err == nil {
			s.Threads++
		}
	}
	return s
}

var errContent = errors.New("the content is another")

func (h *things) checkDeleted() error {
	b := make([]byte, deletedBytes)
	if _, err := h.deleted.ReadAt(b, 0); err != nil {
		return err
	}
	if at, err := h.deleted.Seek(0, io.SeekCurrent); at != deletedBytes || err != nil {
		return fmt.Errorf("its position is %d, %w", at, err)
	}
	return equal(b, pattern(deletedBytes))
}

func equal(got, want []byte) error {
	if !bytes.Equal(got, want) {
		return errContent
	}
	return nil
}

func (h *things) checkAppended() error {
	b, err := os.ReadFile(h.appended.Name())
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if n++; strings.HasSuffix(line, "\n") && strings.TrimSpace(line) != strconv.Itoa(n) {
			return fmt.Errorf("line %d is %q", n, line)
		}
	}
	return nil
}

func (h *things) checkQueue() error {
	b, err := readAll(h.queue[1], queueBytes)
	if err != nil {
		return err
	}
	return errors.Join(equal(b, pattern(queueBytes)), h.fillQueue())
}

func (h *things) checkChild() error {
	if err := writeAll(h.child, []byte("echo me")); err != nil {
		return err
	}
	b, err := readAll(h.child, 7)
	return errors.Join(err, equal(b, []byte("echo me")))
}

func (h *things) checkNamed() error {
	for i := range h.named {
		if err := writeAll(h.named[i], []byte("hello")); err != nil {
			return err
		}
		b, err := readAll(h.named[1-i], 5)
		if err := errors.Join(err, equal(b, []byte("hello"))); err != nil {
			return err
		}
	}
	_, err := os.Stat(filepath.Join(h.dir, "s"))
	return err
}

func (h *things) checkPipe() error {
	b, err := readAll(h.pipe[0], pipeBytes)
	if err != nil {
		return err
	}
	return errors.Join(equal(b, pattern(pipeBytes)), writeAll(h.pipe[1], pattern(pipeBytes)))
}

func checkReserved() error {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		var from, to uint64
		var prot string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &prot); err == nil && to-from >= hugeBytes && strings.HasPrefix(prot, "---") {
			return nil
		}
	}
	return errors.New("it is gone")
}
