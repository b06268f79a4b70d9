package source

import (
	"sync"
	"sync/atomic"
	"time"

	"migrate"
)

// events tells watchers how a move goes on, one event at a time, and keeps the
// newest state for "migrate status".
type events struct {
	id      migrate.ID
	emit    func(migrate.Event)
	started time.Time
	mu      sync.Mutex
	now     migrate.Progress
	done    atomic.Uint64 // bytes of memory handled in this round

	fileBytes atomic.Uint64 // sent in this pass over the files
	wire      func() uint64
	begun     time.Time // of the round
	base      uint64    // wire bytes at its begin
	stop      chan struct{}
	ended     sync.WaitGroup
}

// tick is the distance of progress events.
const tick = 250 * time.Millisecond

func newEvents(id migrate.ID, emit func(migrate.Event)) *events {
	if emit == nil {
		emit = func(migrate.Event) {}
	}
	e := &events{id: id, emit: emit, started: time.Now(), wire: func() uint64 { return 0 }, stop: make(chan struct{})}
	e.ended.Go(e.tick)
	return e
}

func (e *events) tick() {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p := e.progress()
			if p.Total > 0 || p.FilesTotal > 0 {
				e.send(migrate.Event{Type: "progress", Progress: &p})
			}
		case <-e.stop:
			return
		}
	}
}

func (e *events) send(ev migrate.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ev.ID = e.id
	e.emit(ev)
}

// watch tells where the bytes on the wire are counted.
func (e *events) watch(wire func() uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wire = wire
}

func (e *events) phase(p migrate.Phase) {
	e.mu.Lock()
	e.now.Phase = p
	e.mu.Unlock()
	e.send(migrate.Event{Type: "phase", Phase: &p})
}

// round begins a round over about total bytes of memory.
func (e *events) round(n int, total uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.Store(0)
	e.now.Round, e.now.Total = n, total
	e.begun, e.base = time.Now(), e.wire()
}

// files begins a pass over about total bytes of files.
func (e *events) files(total uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fileBytes.Store(0)
	e.now.FilesTotal = total
}

// changed notes what the last round found.
func (e *events) changed(r migrate.Round) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now.DirtyRate, e.now.Expected = r.DirtyRate, r.Expected
}

// slowed notes by how much the workload is slowed.
func (e *events) slowed(percent int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now.Throttle = percent
}

// progress computes where the move stands now.
func (e *events) progress() migrate.Progress {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.now
	p.Done, p.Transferred, p.Files = e.done.Load(), e.wire(), e.fileBytes.Load()
	p.Elapsed = migrate.Millis(time.Since(e.started))
	if spent := time.Since(e.begun); !e.begun.IsZero() && spent > 0 {
		p.Mbps = mbps(p.Transferred-e.base, spent)
		if p.Done > 0 && p.Done < p.Total {
			p.ETA = migrate.Millis(float64(spent) * float64(p.Total-p.Done) / float64(p.Done))
		}
	}
	return p
}

func mbps(bytes uint64, d time.Duration) float64 {
	return float64(int64(float64(bytes)*8/d.Seconds()/1e4)) / 100
}

func (e *events) close() {
	close(e.stop)
	e.ended.Wait()
}
