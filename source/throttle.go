package source

import (
	"context"
	"encoding/json"

	"migrate"
	"migrate/journal"
	"migrate/workload/cgroup"
)

// slower is by how much the workload is slowed, and the way back.
type slower struct {
	percent int
	limit   *cgroup.CPULimit // nil if it never was
}

// slowDown slows the workload by percent. Where that cannot be done the move
// goes on without.
func (v *move) slowDown(ctx context.Context, percent int) {
	err := v.throttle(ctx, percent)
	if err == nil {
		return
	}
	v.settings.stopThrottling()
	w := migrate.Finding{Code: "auto-converge", What: "the workload cannot be slowed: " + err.Error()}
	v.report.Warnings = append(v.report.Warnings, w)
	v.events.send(migrate.Event{Type: "warning", Warning: &w})
}

// throttle slows the workload by percent. The journal knows the way back before
// anything is changed.
func (v *move) throttle(ctx context.Context, percent int) error {
	if v.slower.limit == nil {
		limit, err := v.group.CPULimit(ctx, v.root)
		if err != nil {
			return err
		}
		was, err := json.Marshal(limit)
		if err != nil {
			return err
		}
		if err := v.entry.Update(func(r *journal.Record) { r.CPULimit = was }); err != nil {
			return err
		}
		v.slower.limit = &limit
	}
	if err := v.slower.limit.Throttle(ctx, percent); err != nil {
		return err
	}
	v.slower.percent = percent
	v.report.Throttle = max(v.report.Throttle, percent)
	v.events.slowed(percent)
	v.log.Info("workload slowed", "percent", percent)
	return nil
}

// unthrottle gives the workload its processors back.
func (v *move) unthrottle(ctx context.Context) error {
	if v.slower.limit == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := v.slower.limit.Restore(ctx)
	if err == nil {
		v.slower = slower{}
		v.events.slowed(0)
	}
	return err
}

// unthrottle undoes what a dead process did to the workload of a record.
func unthrottle(ctx context.Context, r journal.Record) error {
	if len(r.CPULimit) == 0 {
		return nil
	}
	var limit cgroup.CPULimit
	if err := json.Unmarshal(r.CPULimit, &limit); err != nil {
		return err
	}
	return limit.Restore(ctx)
}
