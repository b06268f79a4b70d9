package drain

import (
	"context"
	"time"

	"migrate"
)

// retry has a workload whose move came to nothing wait for another try, with
// another target if one can take it, or gives it up.
func (d *Drain) retry(ctx context.Context, it *Item) {
	if ctx.Err() != nil {
		it.State = StatePending // its turn may come when the drain is gone on with
		return
	}
	if it.Tries > d.rec.Options.Retries {
		it.State = StateFailed
		return
	}
	if target, why := d.elsewhere(ctx, it); target != "" {
		it.Target, it.Why = target, why
	}
	it.State = StatePending
	d.retryAt[it.Ref] = time.Now().Add(retryWait)
}

// elsewhere returns a target that has room beside what the drain puts there,
// and that the workload was not tried with; "" if there is none.
func (d *Drain) elsewhere(ctx context.Context, it *Item) (target, why string) {
	t := d.rec.task(it)
	for _, at := range it.Attempts {
		t.block(at.Target, migrate.Finding{Code: "tried", What: "a move there has failed"})
	}
	choices, err := settle(ctx, []Task{t}, d.remaining(it), d.rec.Options.Strategy, func(ctx context.Context, _ int, target string) ([]migrate.Finding, error) {
		return d.check(ctx, it, target)
	})
	if err != nil {
		return "", ""
	}
	return choices[0].Target, choices[0].Why
}

// remaining returns the targets' room without what the plan's other workloads
// take.
func (d *Drain) remaining(but *Item) []Room {
	rooms := make([]Room, len(d.rooms))
	copy(rooms, d.rooms)
	for i := range rooms {
		rooms[i].Groups = map[string]bool{}
		for g := range d.rooms[i].Groups {
			rooms[i].Groups[g] = true
		}
		for j := range d.rec.Items {
			if it := &d.rec.Items[j]; it != but && it.Target == rooms[i].Name && it.State != StateFailed {
				rooms[i].put(it)
			}
		}
	}
	return rooms
}

// put takes a workload's part of a room.
func (r *Room) put(it *Item) {
	r.Memory = left(r.Memory, it.Memory)
	if r.Capacity != NoLimit {
		r.Capacity = left(r.Capacity, it.Memory)
	}
	if r.CPUs >= 0 {
		r.CPUs = max(0, r.CPUs-it.CPU)
	}
	if r.Slots > 0 {
		r.Slots--
	}
	if g := it.Labels[LabelGroup]; g != "" {
		r.Groups[g] = true
	}
}

// stopAll ends the workloads that are to be stopped as they cannot be moved,
// one after the other, and only when everything else has left.
func (d *Drain) stopAll(ctx context.Context) error {
	for i := range d.rec.Items {
		it := &d.rec.Items[i]
		if it.State != StateStopping {
			continue
		}
		if ctx.Err() != nil || d.halted != nil || d.rec.count(StateFailed, StateInDoubt, StatePending) > 0 {
			it.State = StateBlocked // not while something else is wrong
			continue
		}
		d.step(it, string(StateStopping))
		d.end(ctx, it)
		if err := d.save(); err != nil {
			return err
		}
		d.step(it, string(it.State))
	}
	return nil
}

// end stops one workload, if it is still the one that was meant.
func (d *Drain) end(ctx context.Context, it *Item) {
	source := d.source(it.Source)
	st, err := source.State(ctx, false)
	if err == nil {
		if w, there := st.Find(it.Ref); !there || w.Start != it.Start {
			it.State = StateEnded
			return
		}
		err = source.Stop(ctx, it.Ref, d.rec.Options.StopTimeout)
	}
	if err != nil {
		f, _ := migrate.FailureOf(err)
		it.State, it.Failure = StateFailed, &f
		return
	}
	it.State = StateStopped
}
