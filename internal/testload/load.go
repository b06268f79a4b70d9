package testload

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Status is what a workload says of itself. Times are in nanoseconds unless
// the name says otherwise.
type Status struct {
	OK             bool     `json:"ok"`
	Errors         []string `json:"errors"`
	LargestGap     float64  `json:"largest_gap_ms"`      // since the start, by the wall clock
	LargestGapMono float64  `json:"largest_gap_mono_ms"` // the same one, as CLOCK_MONOTONIC showed it
	LargestGapAt   int64    `json:"largest_gap_at"`      // wall clock at its end
	Gap            float64  `json:"gap_ms"`              // the largest since "reset-gap"
	GapMono        float64  `json:"gap_mono_ms"`
	GapAt          int64    `json:"gap_at"`
	Mono           int64    `json:"mono_ns"`
	Boot           int64    `json:"boot_ns"`
	Realtime       int64    `json:"realtime_ns"`
	BootLead       int64    `json:"boot_lead_ns"` // least of CLOCK_BOOTTIME - CLOCK_MONOTONIC ever seen
	Ticks          uint64   `json:"ticks"`        // of the clock watcher, about 1000 a second
	TimerTicks     uint64   `json:"timer_ticks"`
	GoTicks        uint64   `json:"go_ticks"`
	MemoryBytes    int      `json:"memory_bytes"`
	PagesChecked   uint64   `json:"pages_checked"`
	PagesDirtied   uint64   `json:"pages_dirtied"`
	Appended       uint64   `json:"appended"`
	PipeSeq        uint64   `json:"pipe_seq"` // sum over the children
	Children       []int    `json:"children"`
	PID            int      `json:"pid"`
	PPID           int      `json:"ppid"`
	SID            int      `json:"sid"`
	PGID           int      `json:"pgid"`
	TimeNamespace  string   `json:"time_namespace"`
}

// maxErrors is how many errors are kept; the first ones tell the most.
const maxErrors = 20

// load is a running workload.
type load struct {
	cfg      Config
	mem      *memory
	watcher  watcher
	timers   *timers
	files    *files
	children []*child
	pid      int
	sid      int
	pgid     int
	ended    chan int // exit statuses asked for

	mu     sync.Mutex
	errors []string
}

// Run runs a workload until it is told to end, and returns its exit status.
func Run(c Config) (int, error) {
	if err := c.validate(); err != nil {
		return 2, err
	}
	l := &load{cfg: c, watcher: watcher{every: c.Tick}, pid: os.Getpid(), pgid: unix.Getpgrp(), ended: make(chan int, 1)}
	l.sid, _ = unix.Getsid(0) // it has one
	if err := l.start(); err != nil {
		return 1, err
	}
	fmt.Printf("testload ready pid %d\n", l.pid)
	code := <-l.ended
	if err := l.files.close(); err != nil {
		l.fail(err)
	}
	if l.failed() {
		code = ExitFailed
	}
	return code, nil
}

func (l *load) start() (err error) {
	gen := generator{l.cfg.Fill, l.cfg.Seed}
	if l.mem, err = newMemory(l.cfg.Memory, gen); err != nil {
		return err
	}
	if l.timers, err = newTimers(); err != nil {
		return err
	}
	for range l.cfg.Children {
		c, err := startChild()
		if err != nil {
			return err
		}
		l.children = append(l.children, c)
	}
	if l.files, err = newFiles(l.cfg.Dir, l.cfg.Deleted, gen); err != nil {
		return err
	}
	if l.cfg.Listen != "" {
		if err := l.listen(l.cfg.Listen); err != nil {
			return err
		}
	}
	l.watch()
	return nil
}

func (l *load) watch() {
	go l.watcher.watch(l.fail)
	go l.timers.watch(l.fail)
	go l.files.watch(l.fail)
	go l.mem.watch(l.fail)
	for _, c := range l.children {
		go c.watch(l.fail)
	}
	for i := range l.cfg.Threads {
		go l.thread(uint64(i))
	}
	if l.cfg.Heartbeat > 0 {
		go l.beat()
	}
}

// thread rewrites its share of memory and sees that it stays who it is.
func (l *load) thread(n uint64) {
	runtime.LockOSThread()
	tid := unix.Gettid()
	hot := max(1, int(float64(len(l.mem.versions))*l.cfg.Hot))
	l.mem.dirty(float64(l.cfg.Dirty)/float64(l.cfg.Threads), hot, l.cfg.Seed+n<<32, func() {
		if now := unix.Gettid(); now != tid {
			l.fail(fmt.Errorf("thread %d has become %d", tid, now))
			tid = now
		}
	})
}

func (l *load) beat() {
	for n := 1; ; n++ {
		time.Sleep(l.cfg.Heartbeat)
		fmt.Printf("heartbeat %d\n", n)
	}
}

// fail records an error for good.
func (l *load) fail(err error) {
	fmt.Fprintln(os.Stderr, "testload:", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errors) < maxErrors {
		l.errors = append(l.errors, err.Error())
	}
}

func (l *load) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.errors) > 0
}

// verify checks everything now.
func (l *load) verify() {
	for _, check := range []func() error{l.mem.checkAll, l.files.checkAll, l.checkIdentity} {
		if err := check(); err != nil {
			l.fail(err)
		}
	}
}

// checkIdentity looks for IDs that have changed.
func (l *load) checkIdentity() error {
	sid, err := unix.Getsid(0)
	if err != nil {
		return err
	}
	if os.Getpid() != l.pid || unix.Getpgrp() != l.pgid || sid != l.sid {
		return fmt.Errorf("process %d, group %d, session %d have become %d, %d, %d",
			l.pid, l.pgid, l.sid, os.Getpid(), unix.Getpgrp(), sid)
	}
	return nil
}

func (l *load) status() Status {
	if err := l.checkIdentity(); err != nil {
		l.fail(err)
	}
	now := readClocks()
	s := Status{
		Mono: now.mono, Boot: now.boot, Realtime: now.real,
		MemoryBytes: len(l.mem.pages), PagesChecked: l.mem.checked.Load(), PagesDirtied: l.mem.dirtied.Load(),
		Appended: l.files.count(), PID: os.Getpid(), PPID: os.Getppid(), SID: l.sid, PGID: l.pgid,
	}
	l.watcher.fill(&s)
	s.TimerTicks, s.GoTicks = l.timers.read()
	s.TimeNamespace, _ = os.Readlink("/proc/self/ns/time") // "" on a kernel without
	for _, c := range l.children {
		s.PipeSeq += c.seq.Load()
		s.Children = append(s.Children, c.pid)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Errors = append([]string{}, l.errors...)
	s.OK = len(s.Errors) == 0
	return s
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
