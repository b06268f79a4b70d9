package drain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrate"
)

// Run carries out a drain whose record was begun, or taken to go on with it,
// and returns the record as it is then. Cancelling ctx rolls back what is on its
// way and begins nothing more. An error means that nothing was begun, or that
// the record could not be kept.
func Run(ctx context.Context, cfg Config, e *Entry) (*Record, error) {
	d := newDrain(cfg, &e.Record)
	d.entry = e
	fresh := d.rec.Status == Planning // else it is gone on with
	d.rec.Status, d.rec.Ended, d.rec.Error = Running, time.Time{}, nil
	if !fresh {
		d.again(ctx)
	}
	if err := d.begin(ctx, fresh); err != nil {
		return d.rec, errors.Join(err, d.giveUp(ctx, fresh, err))
	}
	if d.rec.Status == Blocked {
		return d.rec, d.giveUp(ctx, fresh, nil)
	}
	return d.rec, d.carry(ctx)
}

// again prepares a record to be gone on with: what was on its way is asked
// about, and what failed is tried again.
func (d *Drain) again(ctx context.Context) {
	for i := range d.rec.Items {
		it := &d.rec.Items[i]
		it.Tries = 0
		switch it.State {
		case StateMoving, StateInDoubt:
			d.decide(it, d.fate(ctx, it, it.last()))
			if it.State != StatePending {
				d.step(it, string(it.State))
			}
		case StateFailed, StateBlocked, StateSkipped, StateStopping:
			it.State, it.Failure = StatePending, nil
		}
	}
}

// decide takes up what became of the last attempt of a workload.
func (d *Drain) decide(it *Item, f Fate) {
	at := it.last()
	switch f {
	case Moved:
		it.State, it.Failure, at.Status = StateMoved, nil, migrate.StatusCompleted
	case Stayed:
		it.State, at.Status = StatePending, migrate.StatusFailed
	default:
		it.State, at.Status = StateInDoubt, migrate.StatusInDoubt
		it.Failure = &migrate.Failure{
			What:   fmt.Sprintf("it is not known whether %s runs on %s or on %s (migration %s)", it.Ref, it.Source, at.Target, at.ID),
			Advice: "see \"migrate recover --help\"; when it is decided, go on with \"migrate drain --resume\"",
		}
	}
}

// begin claims the host, plans, and reserves what the plan needs. The status is
// Blocked afterwards if something keeps the drain from beginning.
func (d *Drain) begin(ctx context.Context, fresh bool) error {
	if err := d.claim(ctx); err != nil {
		return err
	}
	const tries = 3
	for try := 1; ; try++ {
		if err := d.plan(ctx); err != nil {
			return err
		}
		d.planned()
		if fresh && d.rec.Kind == KindDrain && d.rec.count(StateBlocked) > 0 {
			d.rec.Status = Blocked
			return nil
		}
		err := d.reserve(ctx)
		if err == nil {
			return d.save()
		}
		if try == tries {
			return err
		}
		d.unassign() // somebody else got the room: look what is left
	}
}

func (d *Drain) planned() {
	d.watch.Lock()
	defer d.watch.Unlock()
	d.cfg.Watch.Planned(d.rec)
}

// unassign makes a plan anew possible.
func (d *Drain) unassign() {
	for i := range d.rec.Items {
		if it := &d.rec.Items[i]; it.State == StateSkipped || it.State == StateStopping || it.State == StateBlocked {
			it.State, it.Failure = StatePending, nil
		}
	}
}

// claim makes the drain the only one of its host.
func (d *Drain) claim(ctx context.Context) error {
	if d.rec.Kind != KindDrain {
		return nil
	}
	st, err := d.source(d.rec.Host).State(ctx, false)
	if err != nil {
		return err
	}
	if err := d.hold(ctx); err != nil {
		return err
	}
	d.cordoned = st.Cordon == nil
	return nil
}

// hold claims the host, again if need be. Only an undrain claims none.
func (d *Drain) hold(ctx context.Context) error {
	if d.rec.Kind != KindDrain {
		return nil
	}
	return d.source(d.rec.Host).Cordon(ctx, d.rec.ID, d.cfg.ClaimTTL, cmp.Or(d.rec.Options.Reason, "it is being drained"))
}

// reserve has each target keep room for what is to go there.
func (d *Drain) reserve(ctx context.Context) error {
	for _, h := range d.rec.Targets {
		bytes := d.rec.neededOn(h.Name)
		if bytes == 0 {
			continue
		}
		if err := d.target(h.Name).Reserve(ctx, d.rec.ID, bytes, d.cfg.ClaimTTL); err != nil {
			return err
		}
	}
	return nil
}

// neededOn returns the memory that a target needs for what has not arrived.
func (r *Record) neededOn(target string) uint64 {
	var memory []uint64
	for i := range r.Items {
		if it := &r.Items[i]; it.Target == target && (it.State == StatePending || it.State == StateMoving) {
			memory = append(memory, it.Memory)
		}
	}
	return needed(memory)
}

// giveUp ends a drain that did not begin. One that is new leaves nothing behind,
// not even its cordon, but somebody else's.
func (d *Drain) giveUp(ctx context.Context, fresh bool, why error) error {
	d.release(ctx)
	if fresh && d.cordoned {
		if err := d.source(d.rec.Host).Uncordon(context.WithoutCancel(ctx), d.rec.ID); err != nil && why == nil {
			d.warn(migrate.Finding{Code: "cordon", What: err.Error(), Advice: "run \"migrate uncordon\""})
		}
	}
	d.rec.Ended = time.Now()
	if d.rec.Status = Blocked; !fresh {
		d.rec.Status = d.rec.outcome(false)
	}
	if why != nil {
		f, _ := migrate.FailureOf(why)
		d.rec.Error = &f
	}
	return d.save()
}

// release gives up the reservations and the claim. The host stays cordoned.
func (d *Drain) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	for _, h := range d.rec.Targets {
		_ = d.target(h.Name).Reserve(ctx, d.rec.ID, 0, 0) // it expires anyhow
	}
	if d.rec.Kind == KindDrain {
		_ = d.source(d.rec.Host).Cordon(ctx, d.rec.ID, 0, cmp.Or(d.rec.Options.Reason, "it was drained")) // likewise
	}
}

const releaseTimeout = 10 * time.Second

// carry moves everything, stops what is to be stopped, and ends the record.
func (d *Drain) carry(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if t := d.rec.Options.Timeout; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, errTimeout)
		defer cancel()
	}
	err := d.passes(ctx, stop)
	d.release(ctx)
	d.conclude(ctx)
	return errors.Join(err, d.save())
}

// passes moves what there is, and then what has arrived or was started since:
// a move to this host that was under way when it was cordoned ends later.
func (d *Drain) passes(ctx context.Context, stop context.CancelCauseFunc) error {
	const most = 3
	for range most {
		if err := d.loop(ctx, stop); err != nil {
			return err
		}
		if ctx.Err() != nil || d.halted != nil || d.rec.Kind != KindDrain {
			break
		}
		before := len(d.rec.Items)
		if err := d.discover(ctx); err != nil || len(d.rec.Items) == before {
			break
		}
		if err := d.assign(ctx); err != nil {
			break
		}
		d.planned()
	}
	return d.stopAll(ctx)
}

// conclude decides how the drain has ended.
func (d *Drain) conclude(ctx context.Context) {
	d.rec.Ended = time.Now()
	d.rec.Error = d.halted
	if cause := context.Cause(ctx); cause != nil {
		f, _ := migrate.FailureOf(cause)
		d.rec.Error = &f
	}
	for i := range d.rec.Items {
		if it := &d.rec.Items[i]; it.State == StatePending && it.Failure == nil {
			it.Failure = cmp.Or(d.rec.Error, &migrate.Failure{What: "its turn did not come"})
		}
	}
	d.rec.Status = d.rec.outcome(ctx.Err() != nil)
	if d.rec.Kind == KindUndrain {
		if err := d.entry.store.returned(d.rec); err != nil {
			d.warn(migrate.Finding{Code: "record", What: err.Error(), Advice: "\"migrate undrain\" may try again what has come back"})
		}
	}
}

// turn returns in which order workloads move.
func (r *Record) turn() []*Item {
	list := make([]*Item, len(r.Items))
	for i := range r.Items {
		list[i] = &r.Items[i]
	}
	slices.SortStableFunc(list, func(a, b *Item) int {
		size, name := cmp.Compare(a.Memory, b.Memory), cmp.Compare(a.Ref, b.Ref)
		switch r.Options.Order {
		case Largest:
			return cmp.Or(-size, name)
		case Priority:
			return cmp.Or(-cmp.Compare(a.priority(), b.priority()), size, name)
		case ByName:
			return name
		}
		return cmp.Or(size, name)
	})
	return list
}

// next returns the workload that may begin to move now; nil if none may.
func (r *Record) next(flights map[string]*flight, retryAt map[string]time.Time, now time.Time) *Item {
	if len(flights) >= r.Options.MaxParallel {
		return nil
	}
	to := map[string]int{}
	for _, f := range flights {
		to[f.target]++
	}
	for _, it := range r.turn() {
		if it.State != StatePending || now.Before(retryAt[it.Ref]) {
			continue
		}
		if n := r.atOnce(it.Target); n == 0 || to[it.Target] < n {
			return it
		}
	}
	return nil
}

// atOnce returns how many moves a target may take at a time; 0 is no limit.
func (r *Record) atOnce(target string) int {
	mine, its := r.Options.MaxPerTarget, named(r.Targets, target).Limits.Incoming
	if mine == 0 || its == 0 {
		return max(mine, its)
	}
	return min(mine, its)
}
