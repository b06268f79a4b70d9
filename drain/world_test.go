package drain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"migrate"
	"migrate/internal/cordon"
)

// world is a set of hosts as a drain sees them, in memory. A move takes a second
// for each MiB, so tests run in a bubble of synctest.
type world struct {
	mu    sync.Mutex
	hosts map[string]*fakeHost

	running, most int            // moves under way, and the most that ever were
	perTarget     map[string]int // the same, by target
	mostPerTarget map[string]int
	moves         map[string]int // completed, by workload
	caps          map[migrate.ID]int64
	mostBandwidth int64
	order         []string                   // in which moves began
	asked         map[string]migrate.Options // with which each workload was last moved

	// misbehave may end a move in another way than well.
	misbehave func(o Order) *mishap
}

// mishap is how a move goes wrong.
type mishap struct {
	after   time.Duration
	status  migrate.Status
	err     error         // instead of a report
	arrives bool          // all the same, the workload is on the target then
	never   bool          // nobody will ever know
	lingers time.Duration // the target has something of it for so long, and takes it not again
}

type fakeHost struct {
	w         *world
	name      string
	memory    uint64 // MiB
	workloads []migrate.Listed
	cordon    *migrate.Cordon
	traces    map[migrate.ID]Trace
	reserved  map[migrate.ID]uint64
	down      bool
	stopped   []string
	clearing  string // what it still has of a move that failed
}

func newWorld(names ...string) *world {
	w := &world{
		hosts: map[string]*fakeHost{}, perTarget: map[string]int{}, mostPerTarget: map[string]int{},
		moves: map[string]int{}, caps: map[migrate.ID]int64{}, asked: map[string]migrate.Options{},
	}
	for _, n := range names {
		w.hosts[n] = &fakeHost{w: w, name: n, memory: 100000, traces: map[migrate.ID]Trace{}, reserved: map[migrate.ID]uint64{}}
	}
	return w
}

// capsule puts a workload on a host.
func (h *fakeHost) capsule(name string, memory uint64, labels ...string) {
	l := migrate.Listed{Ref: "capsule:" + name, Kind: "capsule", Name: name, Start: uint64(len(h.workloads) + 1), Memory: memory << 20, Labels: map[string]string{}}
	for i := 0; i+1 < len(labels); i += 2 {
		l.Labels[labels[i]] = labels[i+1]
	}
	h.workloads = append(h.workloads, l)
}

func (h *fakeHost) names() (list []string) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, l := range h.workloads {
		list = append(list, l.Name)
	}
	slices.Sort(list)
	return list
}

var errDown = errors.New("no agent answers")

func (h *fakeHost) State(_ context.Context, _ bool) (migrate.HostState, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if h.down {
		return migrate.HostState{}, errDown
	}
	return migrate.HostState{
		Host:      migrate.Host{Name: h.name, MemoryAvailable: h.memory << 20, RestoreSupported: true},
		Workloads: slices.Clone(h.workloads), Cordon: h.cordon,
	}, nil
}

func (h *fakeHost) Check(_ context.Context, o Order) ([]migrate.Finding, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if t := h.w.hosts[o.Target]; t.cordon != nil {
		return []migrate.Finding{cordon.Finding(t.name, *t.cordon)}, nil
	}
	return nil, nil
}

func (h *fakeHost) Move(ctx context.Context, o Order, emit func(migrate.Event)) (*migrate.Report, error) {
	var bad *mishap
	if h.w.misbehave != nil {
		bad = h.w.misbehave(o)
	}
	r := &migrate.Report{ID: o.ID, Workload: o.Ref, Status: migrate.StatusCompleted}
	if h.w.busyWith(o) {
		r.Status, r.Blockers = migrate.StatusBlocked, []migrate.Finding{{Code: "name-taken", What: o.Ref + " is there"}}
		return r, nil
	}
	l, ok := h.w.depart(h, o)
	if !ok {
		r.Status, r.Blockers = migrate.StatusBlocked, []migrate.Finding{{Code: "not-found", What: "no " + o.Ref}}
		return r, nil
	}
	defer h.w.arrive(o)
	took := time.Duration(l.Memory>>20) * time.Second
	if bad != nil {
		took = bad.after
	}
	emit(migrate.Event{Type: "progress", ID: o.ID, Progress: &migrate.Progress{Round: 1, Done: l.Memory / 2, Total: l.Memory}})
	select {
	case <-time.After(took):
	case <-ctx.Done():
		h.w.settled(h, o, migrate.RolledBack)
		r.Status, r.Error = migrate.StatusCancelled, &migrate.Failure{What: "cancelled"}
		return r, nil
	}
	if bad == nil || bad.arrives {
		h.w.handOver(h, o, l)
	} else if !bad.never {
		h.w.settled(h, o, migrate.RolledBack)
	}
	if bad != nil && bad.lingers > 0 {
		h.w.linger(o, bad.lingers)
	}
	if bad != nil && bad.err != nil {
		return nil, bad.err
	}
	if bad != nil {
		r.Status, r.Error = bad.status, &migrate.Failure{What: "the move failed"}
	}
	return r, nil
}

// linger has the target take its time to clear away a move that failed.
func (w *world) linger(o Order, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.hosts[o.Target]
	t.traces[o.ID] = Trace{Known: true, Busy: true, Phase: migrate.Prepare}
	t.clearing = o.Ref
	time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		t.traces[o.ID] = Trace{Known: true, Phase: migrate.RolledBack}
		t.clearing = ""
	})
}

func (w *world) busyWith(o Order) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hosts[o.Target].clearing == o.Ref
}

func (w *world) depart(h *fakeHost, o Order) (migrate.Listed, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(h.workloads, func(l migrate.Listed) bool { return l.Ref == o.Ref })
	if i < 0 {
		return migrate.Listed{}, false
	}
	h.traces[o.ID] = Trace{Known: true, Busy: true, Phase: migrate.PreCopy}
	w.running++
	w.perTarget[o.Target]++
	w.most = max(w.most, w.running)
	w.mostPerTarget[o.Target] = max(w.mostPerTarget[o.Target], w.perTarget[o.Target])
	w.caps[o.ID], w.asked[o.Ref] = o.Options.Bandwidth, o.Options
	w.addUp()
	w.order = append(w.order, h.workloads[i].Name)
	return h.workloads[i], true
}

// addUp notes how much all moves together may send.
func (w *world) addUp() {
	var sum int64
	for _, c := range w.caps {
		sum += c
	}
	w.mostBandwidth = max(w.mostBandwidth, sum)
}

func (w *world) arrive(o Order) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	w.perTarget[o.Target]--
	delete(w.caps, o.ID)
}

func (w *world) handOver(h *fakeHost, o Order, l migrate.Listed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h.traces[o.ID] = Trace{Known: true, Phase: migrate.Done}
	h.workloads = slices.DeleteFunc(h.workloads, func(x migrate.Listed) bool { return x.Ref == o.Ref })
	t := w.hosts[o.Target]
	t.traces[o.ID] = Trace{Known: true, Phase: migrate.Done}
	l.Start += 1000
	t.workloads = append(t.workloads, l)
	w.moves[o.Ref]++
}

func (w *world) settled(h *fakeHost, o Order, p migrate.Phase) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h.traces[o.ID] = Trace{Known: true, Phase: p}
}

func (h *fakeHost) Trace(_ context.Context, id migrate.ID) (Trace, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if h.down {
		return Trace{}, errDown
	}
	return h.traces[id], nil
}

func (h *fakeHost) Cap(_ context.Context, id migrate.ID, bandwidth int64) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if _, ok := h.w.caps[id]; !ok {
		return errors.New("no such move")
	}
	h.w.caps[id] = bandwidth
	h.w.addUp()
	return nil
}

func (h *fakeHost) Stop(_ context.Context, ref string, _ time.Duration) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.stopped = append(h.stopped, ref)
	h.workloads = slices.DeleteFunc(h.workloads, func(x migrate.Listed) bool { return x.Ref == ref })
	return nil
}

// fakeBusy is the claim of another drain.
type fakeBusy struct{ error }

func (fakeBusy) Claimed() bool { return true }

func (h *fakeHost) Cordon(_ context.Context, id migrate.ID, ttl time.Duration, reason string) error {
	return h.wish(cordon.Wish{By: "op", Drain: id, TTL: ttl, Reason: reason})
}

func (h *fakeHost) Uncordon(_ context.Context, id migrate.ID) error {
	return h.wish(cordon.Wish{Off: true, Drain: id})
}

func (h *fakeHost) wish(w cordon.Wish) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	c, err := cordon.Apply(h.cordon, w, time.Now())
	if err != nil {
		return fakeBusy{err}
	}
	h.cordon = c
	return nil
}

func (h *fakeHost) Reserve(_ context.Context, id migrate.ID, bytes uint64, _ time.Duration) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if bytes == 0 {
		delete(h.reserved, id)
		return nil
	}
	var others uint64
	for k, v := range h.reserved {
		if k != id {
			others += v
		}
	}
	if others+bytes > h.memory<<20 {
		return fmt.Errorf("%s cannot keep %d MiB", h.name, bytes>>20)
	}
	h.reserved[id] = bytes
	return nil
}

// asTarget is a host in its other role.
type asTarget struct{ *fakeHost }

// State is that of the host, less what is reserved for others.
func (t asTarget) State(ctx context.Context, id migrate.ID) (migrate.HostState, error) {
	st, err := t.fakeHost.State(ctx, false)
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	for k, v := range t.reserved {
		if k != id {
			st.Promised += v
		}
	}
	return st, err
}

// diary is a watcher that remembers.
type diary struct {
	steps    []Step
	progress []Progress
	warnings []migrate.Finding
	planned  int
	moved    int // events of moves
}

func (d *diary) Planned(*Record)            { d.planned++ }
func (d *diary) Step(s Step)                { d.steps = append(d.steps, s) }
func (d *diary) Move(string, migrate.Event) { d.moved++ }
func (d *diary) Progress(p Progress)        { d.progress = append(d.progress, p) }
func (d *diary) Warn(f migrate.Finding)     { d.warnings = append(d.warnings, f) }
func (w *world) config(d *diary) Config {
	return Config{
		Source: func(h Host) Source { return w.hosts[h.Address] },
		Target: func(h Host) Target { return asTarget{w.hosts[h.Address]} },
		Watch:  d,
	}
}

// request is a drain of host A with usual options.
func request(targets ...string) Record {
	return Record{
		ID: migrate.NewID(), Kind: KindDrain, Host: "A", Status: Planning, Started: time.Now(),
		Sources: Hosts([]string{"A"}), Targets: Hosts(targets),
		Options: Options{
			Move: migrate.Options{}.WithDefaults(), Strategy: Spread, Order: Smallest, MaxParallel: 2, Retries: 2,
			OnFailure: Continue, Action: Live,
		},
	}
}

func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run carries out a new drain.
func (w *world) run(ctx context.Context, t *testing.T, s *Store, r Record, d *diary) *Record {
	t.Helper()
	e, err := s.Begin(r)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	got, err := Run(ctx, w.config(d), e)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// goOn goes on with a drain.
func (w *world) goOn(t *testing.T, s *Store, id migrate.ID, d *diary) *Record {
	t.Helper()
	e, err := s.Take(id)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	got, err := Run(t.Context(), w.config(d), e)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// states returns how the workloads stand, by name.
func states(r *Record) map[string]State {
	m := map[string]State{}
	for _, it := range r.Items {
		m[it.Name] = it.State
	}
	return m
}
