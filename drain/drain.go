package drain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"migrate"
	"migrate/internal/cordon"
)

// Config is what a drain needs of its surroundings.
type Config struct {
	Source func(Host) Source // the host that has this address; "" is this machine
	Target func(Host) Target
	Watch  Watcher

	ClaimTTL time.Duration // of claims and reservations; 0 means a minute
	Patience time.Duration // of asking what became of a migration; 0 means a minute
}

// A Drain is one drain, planned or under way. One goroutine owns it; moves hand
// their ends to that one.
type Drain struct {
	cfg   Config
	entry *Entry // nil for a plan
	rec   *Record

	sources map[string]Source
	targets map[string]Target
	rooms   []Room // as they were when the plan was made

	watch   sync.Mutex // held while the watcher is told something
	flights map[string]*flight
	since   time.Time
	ends    chan end
	halted  *migrate.Failure // why no more moves begin
	retryAt map[string]time.Time

	cordoned bool // by this drain, and not by somebody before
}

func newDrain(cfg Config, r *Record) *Drain {
	if cfg.ClaimTTL == 0 {
		cfg.ClaimTTL = time.Minute
	}
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	return &Drain{
		cfg: cfg, rec: r, sources: map[string]Source{}, targets: map[string]Target{}, flights: map[string]*flight{},
		since: time.Now(), ends: make(chan end), retryAt: map[string]time.Time{},
	}
}

func (d *Drain) source(name string) Source {
	if d.sources[name] == nil {
		d.sources[name] = d.cfg.Source(named(d.rec.Sources, name))
	}
	return d.sources[name]
}

func (d *Drain) target(name string) Target {
	if d.targets[name] == nil {
		d.targets[name] = d.cfg.Target(named(d.rec.Targets, name))
	}
	return d.targets[name]
}

// Plan fills r's workloads in: what would be moved where, and why. Nothing is
// changed on any host.
func Plan(ctx context.Context, cfg Config, r *Record) error {
	d := newDrain(cfg, r)
	return d.plan(ctx)
}

// plan discovers what is to leave and decides where it goes.
func (d *Drain) plan(ctx context.Context) error {
	look := d.discover
	if d.rec.Kind == KindUndrain {
		look = d.locate
	}
	if err := look(ctx); err != nil {
		return err
	}
	return d.assign(ctx)
}

// locate looks for the workloads that are to come back on the hosts that they
// went to.
func (d *Drain) locate(ctx context.Context) error {
	for _, h := range d.rec.Sources {
		st, err := d.source(h.Name).State(ctx, false)
		if err != nil {
			d.warn(migrate.Finding{Code: "unreachable", What: fmt.Sprintf("%s does not tell what runs there: %v", h.Name, err)})
			continue // its workloads are blocked by the same
		}
		for i := range d.rec.Items {
			it := &d.rec.Items[i]
			if it.Source != h.Name || it.State != StatePending {
				continue
			}
			if w, there := st.Find(it.Ref); !there || it.Start != 0 && w.Start != it.Start {
				it.State = d.gone(ctx, it)
			} else {
				it.Start, it.Memory, it.CPU = w.Start, w.Memory, w.CPU
			}
		}
	}
	return nil
}

// discover adds what is on the host and to leave it to the drain's workloads,
// and looks what has become of those that wait for their turn.
func (d *Drain) discover(ctx context.Context) error {
	st, err := d.source(d.rec.Host).State(ctx, true)
	if err != nil {
		return err
	}
	for _, p := range st.Problems {
		d.warn(migrate.Finding{Code: "listing", What: p, Advice: "what is wrong there may not be drained"})
	}
	d.rec.Others = nil
	listed := map[string]migrate.Listed{}
	for _, w := range st.Workloads {
		listed[w.Ref] = w
	}
	known := d.refresh(ctx, listed)
	for _, w := range st.Workloads {
		switch {
		case known[w.Ref]:
		case !d.rec.Options.chosen(w):
			d.rec.Others = append(d.rec.Others, w.Ref)
		default:
			d.rec.Items = append(d.rec.Items, d.rec.Options.itemOf(d.rec.Host, w))
		}
	}
	return nil
}

// refresh goes through the workloads that are still to leave, by what the
// host lists. It returns those that it lists and the drain knows.
func (d *Drain) refresh(ctx context.Context, listed map[string]migrate.Listed) map[string]bool {
	known := map[string]bool{}
	for i := range d.rec.Items {
		it := &d.rec.Items[i]
		w, there := listed[it.Ref]
		there = there && w.Start == it.Start
		switch {
		case !it.left():
		case there:
			known[it.Ref] = true
			if it.State == StatePending {
				fresh := d.rec.Options.itemOf(it.Source, w)
				it.Memory, it.CPU, it.Labels, it.Failure = fresh.Memory, fresh.CPU, fresh.Labels, fresh.Failure
			}
		case it.State == StatePending:
			it.State = d.gone(ctx, it)
		}
	}
	return known
}

// gone tells what became of a workload that its host does not have any more: an
// earlier attempt may have moved it after all.
func (d *Drain) gone(ctx context.Context, it *Item) State {
	state := StateEnded
	for i := range it.Attempts {
		switch d.fate(ctx, it, &it.Attempts[i]) {
		case Moved:
			it.Target = it.Attempts[i].Target
			return StateMoved
		case Undecided, Unclear:
			state = StateInDoubt
		}
	}
	return state
}

// assign decides where each workload that waits for its turn goes. Those that
// cannot be moved get the state that their action asks for.
func (d *Drain) assign(ctx context.Context) error {
	if err := d.measure(ctx); err != nil {
		return err
	}
	var items []*Item
	var tasks []Task
	for i := range d.rec.Items {
		it := &d.rec.Items[i]
		if it.State != StatePending {
			continue
		}
		if it.Target, it.Rejected = "", []Rejection{}; it.Failure != nil { // to no host
			it.Why = it.Failure.What
			it.State = it.Action.instead()
			continue
		}
		items, tasks = append(items, it), append(tasks, d.rec.task(it))
	}
	choices, err := settle(ctx, tasks, d.rooms, d.rec.Options.Strategy, func(ctx context.Context, i int, target string) ([]migrate.Finding, error) {
		return d.check(ctx, items[i], target)
	})
	if err != nil {
		return err
	}
	for i, c := range choices {
		it := items[i]
		it.Target, it.Why, it.Rejected = c.Target, c.Why, c.Rejected
		if c.Target == "" {
			it.State, it.Failure = it.Action.instead(), unplaced(c)
		}
	}
	return nil
}

// check runs the preflight of a workload with a target. The cordon of a host
// that gets its workloads back is lifted before they move.
func (d *Drain) check(ctx context.Context, it *Item, target string) ([]migrate.Finding, error) {
	list, err := d.source(it.Source).Check(ctx, d.order(it, "", target))
	if d.rec.Kind == KindUndrain {
		list = slices.DeleteFunc(list, func(f migrate.Finding) bool { return f.Code == cordon.Code })
	}
	return list, err
}

// instead is the state of a workload that cannot be moved live.
func (a Action) instead() State {
	switch a {
	case Stop:
		return StateStopping
	case Skip:
		return StateSkipped
	}
	return StateBlocked
}

// measure asks every target for what it can take.
func (d *Drain) measure(ctx context.Context) error {
	d.rooms = make([]Room, len(d.rec.Targets))
	var group errgroup.Group
	group.SetLimit(checksAtOnce)
	for i, h := range d.rec.Targets {
		t := d.target(h.Name)
		group.Go(func() error {
			st, err := t.State(ctx, d.rec.ID)
			d.rooms[i] = d.rec.roomOf(h, st, err)
			return nil
		})
	}
	_ = group.Wait() // a target that does not answer is out
	return context.Cause(ctx)
}

func (d *Drain) order(it *Item, id migrate.ID, target string) Order {
	move, _ := d.rec.Options.moveOf(it.Labels) // the plan has no place for what has bad labels
	return Order{ID: id, Drain: d.rec.ID, Ref: it.Ref, Target: named(d.rec.Targets, target).Address, Options: move}
}

// pollEvery is the pace of asking what became of a migration.
const pollEvery = 500 * time.Millisecond

// fate asks both hosts what became of an attempt.
func (d *Drain) fate(ctx context.Context, it *Item, at *Attempt) Fate {
	return fate(ctx, d.cfg.Patience, d.source(it.Source), d.target(at.Target), at.ID)
}

// fate asks both hosts what became of a migration until they can tell, or
// patience ends.
func fate(ctx context.Context, patience time.Duration, source Source, target Target, id migrate.ID) Fate {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for {
		f := Judge(trace(ctx, source.Trace, id), trace(ctx, target.Trace, id))
		if f != Undecided {
			return f
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return Undecided
		}
	}
}

// cleared returns when a target has nothing more to do with a migration that
// came to nothing: what it still has of it would be in the way of another try.
// A target that does not answer is not waited for.
func cleared(ctx context.Context, patience time.Duration, target Target, id migrate.ID) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if t := trace(ctx, target.Trace, id); t == nil || !t.Busy {
			return
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return
		}
	}
}

func trace(ctx context.Context, ask func(context.Context, migrate.ID) (Trace, error), id migrate.ID) *Trace {
	t, err := ask(ctx, id)
	if err != nil {
		return nil
	}
	return &t
}

func (d *Drain) warn(f migrate.Finding) {
	d.watch.Lock()
	defer d.watch.Unlock()
	d.cfg.Watch.Warn(f)
}

// errLost is why a drain stops that another one has taken the host from.
var errLost = errors.New("another drain has claimed the host")

// errTimeout is why a drain stops whose time is up.
var errTimeout = errors.New("the drain took longer than its --timeout")

// ErrCancelled is why a drain stops that somebody has cancelled.
var ErrCancelled = errors.New("the drain was cancelled")

// save flushes the record; a plan has none.
func (d *Drain) save() error {
	if d.entry == nil {
		return nil
	}
	if err := d.entry.Save(); err != nil {
		return fmt.Errorf("recording the drain: %w", err)
	}
	return nil
}
