package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"migrate"
	"migrate/clock"
	"migrate/journal"
	"migrate/transport"
	"migrate/workload/cgroup"
)

// prepare has the target reserve what it needs, and makes ready here what
// must not cost frozen time: the cgroup, the image directory, the clock
// comparison.
func (v *move) prepare(ctx context.Context) error {
	v.enter(migrate.Prepare)
	if err := v.entry.Step(migrate.Prepare, nil); err != nil {
		return err
	}
	if err := v.awaitFill(ctx); err != nil {
		return err
	}
	if err := v.session.Send(ctx, transport.Prepare{ID: v.id}); err != nil {
		return err
	}
	v.listing = v.canList(ctx)
	err := v.prepareNetwork()
	if err != nil {
		return fmt.Errorf("network of the workload: %w", err)
	}
	if v.standing, err = standing(ctx, v.pids(), v.opts.FileLocks); err != nil {
		return err
	}
	if v.prepared, err = expect[transport.Prepared](ctx, v.inbox); err != nil {
		return err
	}
	if err := v.openTrees(ctx); err != nil {
		return err
	}
	v.images = filepath.Join(v.cfg.RunDir, "images", string(v.id))
	if err := os.MkdirAll(v.images, 0o700); err != nil {
		return err
	}
	if err := v.ownCgroup(ctx); err != nil {
		return fmt.Errorf("cgroup for the freeze: %w", err)
	}
	return nil
}

// canList asks whether CRIU can list pages in place of sending them. Where the
// kernel tracks memory for CRIU, that does better.
func (v *move) canList(ctx context.Context) bool {
	if v.report.Tracker == migrate.TrackerSoftDirty {
		return false
	}
	err := v.tool.CanList(ctx)
	if err != nil {
		v.log.Info("CRIU will send every page to us", "cause", err)
	}
	return err == nil
}

// pids returns the tree's processes as of preflight.
func (v *move) pids() []int {
	pids := make([]int, len(v.facts.Tasks))
	for i, t := range v.facts.Tasks {
		pids[i] = t.PID
	}
	return pids
}

// ownCgroup finds the cgroup that holds the tree and nothing else, or makes
// one. The journal knows of it, and of the way back, before a task is moved.
func (v *move) ownCgroup(ctx context.Context) error {
	if g, ok := cgroup.Dedicated(v.root, v.pids()); ok {
		v.group = g
		return v.entry.Update(func(r *journal.Record) { r.Cgroup = g.Path() })
	}
	g, err := cgroup.Create(v.cgroupName())
	if err != nil {
		return err
	}
	v.group = g
	before, err := g.Before(v.root)
	if err != nil {
		return err
	}
	if err := v.journalPlacement(before); err != nil {
		return err
	}
	placement, adoptErr := g.Adopt(ctx, v.root)
	v.placement = &placement
	return errors.Join(adoptErr, v.journalPlacement(placement))
}

// cgroupName is of one move only, unless CRIU is to restore the group by its
// name: then it is the one that the target's supervisor makes.
func (v *move) cgroupName() string {
	if v.opts.ManageCgroupsMode == "ignore" {
		return "move-" + string(v.id)
	}
	return v.facts.Name
}

func (v *move) journalPlacement(p cgroup.Placement) error {
	was, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return v.entry.Update(func(r *journal.Record) { r.Cgroup, r.Placement = p.Group, was })
}

// clockSamples is enough for one of them to meet no queue on the way.
const clockSamples = 12

// compareClocks measures the target's clocks against ours.
func (v *move) compareClocks(ctx context.Context) error {
	samples := make([]clock.Sample, clockSamples)
	for i := range samples {
		sent := clock.Now()
		if err := v.session.Send(ctx, transport.ClockPing{Seq: uint32(i), Sent: sent}); err != nil {
			return err
		}
		pong, err := expect[transport.ClockPong](ctx, v.inbox)
		if err != nil {
			return err
		}
		if pong.Seq != uint32(i) {
			return fmt.Errorf("clock answer %d to question %d", pong.Seq, i)
		}
		samples[i] = clock.Sample{Sent: sent, Received: pong.Received, Replied: pong.Replied, Back: clock.Now()}
	}
	var err error
	v.diff, err = clock.Estimate(samples)
	v.compared = time.Now()
	return err
}

func bounds(b clock.Bounds) transport.Bounds {
	return transport.Bounds{OffsetNS: int64(b.Offset), BoundNS: int64(b.Error)}
}
