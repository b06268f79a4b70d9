package drain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrate"
)

// end is how one migration ended, or that how is not known.
type end struct {
	ref    string
	report *migrate.Report
	err    error
	fate   Fate // what the hosts say, if the move itself could not
}

// unsure reports whether the end of a move has to be asked of the hosts.
func (e *end) unsure() bool {
	if e.report == nil {
		return !errors.As(e.err, new(*NotBegun))
	}
	return e.report.Status == migrate.StatusInDoubt || e.report.Status == migrate.StatusActive
}

// nothing reports whether the move came to nothing.
func (e *end) nothing() bool {
	if e.unsure() {
		return e.fate == Stayed
	}
	return e.report == nil || e.report.Status != migrate.StatusCompleted
}

// NotBegun is an error of a move that touched nothing: there is no doubt about
// the workload.
type NotBegun struct{ Err error }

// Error says why.
func (n *NotBegun) Error() string { return n.Err.Error() }

// Unwrap returns the cause.
func (n *NotBegun) Unwrap() error { return n.Err }

// The paces of the loop.
const (
	tellEvery = 500 * time.Millisecond
	retryWait = 2 * time.Second
)

// loop moves workloads until none is left that may be moved. What is on its way
// when ctx ends is rolled back and waited for.
func (d *Drain) loop(ctx context.Context, stop context.CancelCauseFunc) error {
	renew, tell := time.NewTicker(d.cfg.ClaimTTL/3), time.NewTicker(tellEvery)
	defer renew.Stop()
	defer tell.Stop()
	lost := make(chan error, 1)
	for {
		if err := d.start(ctx); err != nil {
			stop(err) // the record cannot be kept: nothing may go on that it does not hold
			return errors.Join(err, d.wind())
		}
		if len(d.flights) == 0 && (ctx.Err() != nil || d.halted != nil || !d.waiting()) {
			d.tell()
			return nil
		}
		select {
		case e := <-d.ends:
			if err := d.ended(ctx, e); err != nil {
				stop(err)
				return errors.Join(err, d.wind())
			}
		case <-renew.C:
			d.renew(ctx, lost)
		case err := <-lost:
			stop(err)
		case <-tell.C:
			d.share(ctx, len(d.flights)) // with those that could not be told before
			d.tell()
		}
	}
}

// waiting reports whether workloads wait for their turn.
func (d *Drain) waiting() bool { return d.rec.count(StatePending) > 0 }

// wind waits until nothing is on its way any more, after a record could not be
// written. What is on disk says that it is on its way, so a resume asks.
func (d *Drain) wind() error {
	for len(d.flights) > 0 {
		e := <-d.ends
		delete(d.flights, e.ref)
	}
	return nil
}

func (d *Drain) tell() {
	d.watch.Lock()
	defer d.watch.Unlock()
	d.cfg.Watch.Progress(progressOf(d.rec, d.flights, d.since))
}

func (d *Drain) step(it *Item, what string) {
	s := Step{Type: "step", Drain: d.rec.ID, Workload: it.Ref, Step: what, Source: it.Source, Target: it.Target, Running: len(d.flights), Failure: it.Failure}
	if at := it.last(); at != nil {
		s.Migration, s.TotalTime, s.Downtime = at.ID, at.TotalTime, at.Downtime
	}
	d.watch.Lock()
	defer d.watch.Unlock()
	d.cfg.Watch.Step(s)
}

// start begins as many moves as may be under way. The record of each, with the
// ID of the migration, is on disk before it begins.
func (d *Drain) start(ctx context.Context) error {
	for ctx.Err() == nil && d.halted == nil {
		it := d.rec.next(d.flights, d.retryAt, time.Now())
		if it == nil {
			d.share(ctx, len(d.flights))
			return nil
		}
		it.State, it.Failure = StateMoving, nil
		it.Tries++
		it.Attempts = append(it.Attempts, Attempt{ID: migrate.NewID(), Target: it.Target, Status: migrate.StatusActive, Started: time.Now()})
		if err := d.save(); err != nil {
			return err
		}
		d.share(ctx, len(d.flights)+1)
		d.fly(ctx, it)
		d.step(it, "begin")
	}
	return nil
}

// fly has a workload moved beside the loop.
func (d *Drain) fly(ctx context.Context, it *Item) {
	// A move that has just begun cannot be told to be slower yet: it is given what
	// it will have when all that may begin has begun.
	soon := min(d.rec.Options.MaxParallel, len(d.flights)+1+d.rec.count(StatePending))
	f := &flight{ref: it.Ref, id: it.last().ID, target: it.Target, memory: it.Memory, cap: d.portion(soon)}
	d.watch.Lock()
	d.flights[it.Ref] = f
	d.watch.Unlock()
	o := d.order(it, f.id, it.Target)
	o.Options.Bandwidth = f.cap
	source, target, patience := d.source(it.Source), d.target(it.Target), d.cfg.Patience
	go func() {
		e := end{ref: f.ref}
		e.report, e.err = source.Move(ctx, o, func(e migrate.Event) {
			d.watch.Lock()
			defer d.watch.Unlock()
			if e.Progress != nil {
				f.progress = *e.Progress
			}
			d.cfg.Watch.Move(f.ref, e)
		})
		if e.unsure() {
			e.fate = fate(ctx, patience, source, target, f.id)
		}
		if e.nothing() {
			cleared(ctx, patience, target, f.id)
		}
		d.ends <- e
	}()
}

// portion is what each of some moves gets of the bandwidth; 0 is no cap.
func (d *Drain) portion(moves int) int64 {
	if d.rec.Options.Bandwidth == 0 {
		return 0
	}
	return max(1, d.rec.Options.Bandwidth/int64(max(1, moves)))
}

// share gives each move under way its portion. Before one more begins the others
// have less, so that all together never have more.
func (d *Drain) share(ctx context.Context, moves int) {
	if d.rec.Options.Bandwidth == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	want := d.portion(moves)
	for _, f := range d.flights {
		it := d.item(f.ref)
		if it == nil || f.cap == want {
			continue
		}
		if d.source(it.Source).Cap(ctx, f.id, want) == nil { // else it has ended, or cannot be told yet
			f.cap = want
		}
	}
}

func (d *Drain) item(ref string) *Item {
	i := slices.IndexFunc(d.rec.Items, func(it Item) bool { return it.Ref == ref && it.State == StateMoving })
	if i < 0 {
		return nil
	}
	return &d.rec.Items[i]
}

// renew keeps the claim and the reservations. It does not make the loop wait;
// a claim that another drain has taken is told through lost.
func (d *Drain) renew(ctx context.Context, lost chan<- error) {
	bytes := map[string]uint64{}
	for _, h := range d.rec.Targets {
		if n := d.rec.neededOn(h.Name); n > 0 {
			bytes[h.Name] = n
			d.target(h.Name) // made here: the map is the loop's
		}
	}
	targets := map[string]Target{}
	for name := range bytes {
		targets[name] = d.targets[name]
	}
	id, ttl := d.rec.ID, d.cfg.ClaimTTL
	go func() {
		ctx, cancel := context.WithTimeout(ctx, ttl/3)
		defer cancel()
		for name, t := range targets {
			if err := t.Reserve(ctx, id, bytes[name], ttl); err != nil && ctx.Err() == nil {
				d.warn(migrate.Finding{Code: "reservation", What: "the room on " + name + " could not be kept: " + err.Error()})
			}
		}
		if err := d.hold(ctx); isBusy(err) {
			select {
			case lost <- fmt.Errorf("%w: %w", errLost, err):
			default:
			}
		}
	}()
}

// isBusy tells a claim of another drain from a host that does not answer.
func isBusy(err error) bool {
	var busy interface{ Claimed() bool }
	return errors.As(err, &busy) && busy.Claimed()
}

// ended takes up how a move has ended.
func (d *Drain) ended(ctx context.Context, e end) error {
	it := d.item(e.ref)
	d.watch.Lock()
	delete(d.flights, e.ref)
	d.watch.Unlock()
	d.book(ctx, it, e)
	if err := d.save(); err != nil {
		return err
	}
	d.share(ctx, len(d.flights))
	what := string(it.State)
	if it.State == StatePending {
		what = "retry"
	}
	d.step(it, what)
	if (it.State == StateFailed || it.State == StateInDoubt) && d.rec.Options.OnFailure == Halt {
		d.halted = &migrate.Failure{What: fmt.Sprintf("stopped after %s could not be moved (--on-failure stop)", it.Ref)}
	}
	return nil
}

// book writes the end of a move into the record: where the workload is, and
// whether it is tried again.
func (d *Drain) book(ctx context.Context, it *Item, e end) {
	at := it.last()
	r := e.report
	if r == nil {
		f, _ := migrate.FailureOf(e.err)
		r = &migrate.Report{Status: migrate.StatusFailed, Error: &f}
	}
	at.Status, at.TotalTime, at.Downtime, at.Transferred, at.Failure = r.Status, r.TotalTime, r.Downtime, r.Transferred, failureIn(r)
	switch {
	case r.Status == migrate.StatusCompleted:
		it.State, it.Failure = StateMoved, nil
		return
	case e.unsure():
		d.decide(it, e.fate)
	case notFound(r):
		it.State = d.gone(ctx, it)
	default:
		it.State = StatePending
	}
	if it.State == StatePending {
		it.Failure = at.Failure
		d.retry(ctx, it)
	}
}

func notFound(r *migrate.Report) bool {
	return slices.ContainsFunc(r.Blockers, func(b migrate.Finding) bool { return b.Code == "not-found" })
}

// failureIn returns why a move was none; nil if it was one.
func failureIn(r *migrate.Report) *migrate.Failure {
	if r.Status == migrate.StatusBlocked && len(r.Blockers) > 0 {
		return &migrate.Failure{What: r.Blockers[0].What, Advice: r.Blockers[0].Advice}
	}
	return r.Error
}
