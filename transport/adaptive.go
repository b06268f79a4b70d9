package transport

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Adaptive encodes batches with the codec that suits link, processors and data
// best, which it looks at again a few times a second. Its methods may be called
// from any goroutine.
type Adaptive struct {
	lowest, highest Codec
	now             atomic.Uint32 // a Codec
	hurry           atomic.Bool   // time counts for more than bytes

	encoding, blocked atomic.Int64 // nanoseconds since the start
	raw, packed       atomic.Uint64

	due    atomic.Int64 // when to decide again, by the clock
	mu     sync.Mutex   // of who decides
	before Load         // all counters at the decision before
	patience
	clock func() time.Duration // since some moment in the past
	usage func() usage
}

// period is the time between decisions: some ticks of the kernel's statistics,
// a hundred batches on a fast link.
const period = 200 * time.Millisecond

// NewAdaptive returns an Adaptive that keeps between two codecs, which may be
// the same one.
func NewAdaptive(lowest, highest Codec) *Adaptive {
	start := time.Now()
	return newAdaptive(lowest, highest, func() time.Duration { return time.Since(start) }, readUsage)
}

func newAdaptive(lowest, highest Codec, clock func() time.Duration, usage func() usage) *Adaptive {
	a := &Adaptive{lowest: lowest, highest: highest, clock: clock, usage: usage}
	a.now.Store(uint32(max(lowest, min(CodecS2, highest))))
	a.before = a.counters(clock())
	a.due.Store(int64(a.before.Elapsed + period))
	return a
}

// Codec returns the codec in use.
func (a *Adaptive) Codec() Codec { return Codec(a.now.Load()) }

// Encode is [EncodeBatch] with the codec to use now.
func (a *Adaptive) Encode(dst []byte, b *Batch) ([]byte, error) {
	a.decide()
	begun, start := a.clock(), len(dst)
	effort := thorough
	if a.hurry.Load() {
		effort = quick
	}
	frame, err := encodeBatch(dst, b, a.Codec(), effort)
	if err != nil {
		return nil, err
	}
	a.encoding.Add(int64(a.clock() - begun))
	a.raw.Add(uint64(len(b.Data)))
	a.packed.Add(uint64(len(frame) - start))
	return frame, nil
}

// Hurry says that from now on time counts for more than bytes.
func (a *Adaptive) Hurry() { a.hurry.Store(true) }

// Blocked tells how long the writer of frames has just waited for the network.
// With several streams that is the time in which none of them was free.
func (a *Adaptive) Blocked(d time.Duration) { a.blocked.Add(int64(d)) }

// decide takes a decision if one is due and nobody else is at it.
func (a *Adaptive) decide() {
	at := a.clock()
	if a.lowest == a.highest || int64(at) < a.due.Load() || !a.mu.TryLock() {
		return
	}
	defer a.mu.Unlock()
	all := a.counters(at)
	load := all.minus(a.before)
	a.before = all
	a.due.Store(int64(at + period))
	now := a.Codec()
	next := max(a.lowest, min(NextCodec(now, load), a.highest))
	if a.allows(now, next) {
		a.now.Store(uint32(next))
	}
}

func (a *Adaptive) counters(at time.Duration) Load {
	u := a.usage()
	return Load{
		Elapsed: at, Encoding: time.Duration(a.encoding.Load()), Blocked: time.Duration(a.blocked.Load()),
		Raw: a.raw.Load(), Packed: a.packed.Load(), CPUs: runtime.NumCPU(), Idle: u.idle, Used: u.used,
	}
}

// minus returns what came since the counters were those of before.
func (l Load) minus(before Load) Load {
	return Load{
		Elapsed: l.Elapsed - before.Elapsed, Encoding: l.Encoding - before.Encoding, Blocked: l.Blocked - before.Blocked,
		Raw: l.Raw - before.Raw, Packed: l.Packed - before.Packed, CPUs: l.CPUs, Idle: l.Idle - before.Idle, Used: l.Used - before.Used,
	}
}

// patience keeps from going to and fro: each time that a step up had to be
// undone, the next one is waited for longer.
type patience struct {
	wait, left int // decisions
}

const maxWait = 32

func (p *patience) allows(now, next Codec) bool {
	if next < now {
		p.wait = min(max(2, 2*p.wait), maxWait)
		p.left = p.wait
		return true
	}
	p.left = max(0, p.left-1)
	return next > now && p.left == 0
}

// usage is processor time since some moment in the past.
type usage struct {
	idle time.Duration // of all the host's processors
	used time.Duration // by this process
}

// userHZ is the unit of /proc/stat, the same on every architecture of Linux
// that Go supports (proc_stat(5), sysconf(_SC_CLK_TCK)).
const userHZ = 100

// readUsage reads what it can; what it cannot stays 0, as on a host that is
// always busy.
func readUsage() usage {
	var u usage
	if f, err := os.Open("/proc/stat"); err == nil {
		defer f.Close()
		line, _ := bufio.NewReader(f).ReadString('\n')
		var user, nice, system, idle, iowait int64
		if n, _ := fmt.Sscanf(line, "cpu %d %d %d %d %d", &user, &nice, &system, &idle, &iowait); n == 5 {
			u.idle = time.Duration(idle+iowait) * time.Second / userHZ
		}
	}
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) == nil {
		u.used = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return u
}
