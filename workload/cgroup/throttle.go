package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"migrate/workload/proc"
)

// Throttle slows the group by percent (0 to 99) of the processor time that it
// used before. It may be called again with another one; 0 lifts the limit without
// the rest of what [CPULimit.Restore] does.
func (c CPULimit) Throttle(ctx context.Context, percent int) error {
	if percent < 0 || percent > 99 {
		return fmt.Errorf("slowing %s by %d%%: want 0 to 99", c.Group, percent)
	}
	prepare, set := c.enable, c.setMax
	if c.Version == 1 {
		prepare, set = c.gather, c.setQuota
	}
	err := prepare(ctx)
	if err == nil {
		err = set(percent)
	}
	if err != nil {
		return fmt.Errorf("slowing %s by %d%%: %w", c.Group, percent, err)
	}
	return nil
}

// bandwidth returns quota and period in microseconds. The period is short, so
// that a slowed program stutters finely, but of many of the ticks (1 to 10 ms) at
// which the kernel looks; its least quota is 1 ms.
func (c CPULimit) bandwidth(percent int) (quota, period int) {
	const fine, least, coarse = 50_000, 1000, 1_000_000
	part := c.Used * float64(100-percent) / 100
	period = fine
	if part*fine < least {
		period = min(coarse, int(least/part))
	}
	return max(least, int(part*float64(period))), period
}

// enable has the controller passed down to the group.
func (c CPULimit) enable(context.Context) error {
	for _, dir := range c.Enabled {
		if err := write(dir, "cgroup.subtree_control", "+cpu"); err != nil {
			return err
		}
	}
	return nil
}

func (c CPULimit) setMax(percent int) error {
	if percent == 0 {
		return write(c.Dir, "cpu.max", orMax(c.Before))
	}
	quota, period := c.bandwidth(percent)
	return write(c.Dir, "cpu.max", fmt.Sprintf("%d %d", quota, period))
}

func orMax(before string) string {
	if before == "" {
		return "max"
	}
	return before
}

// gather moves the processes to the group that has the limit, until a look at
// them all finds nobody outside.
func (c CPULimit) gather(ctx context.Context) error {
	if err := os.Mkdir(c.Dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	all, here := &Group{dir: c.Group}, &Group{dir: c.Dir}
	for {
		want, err := all.Procs()
		if err != nil {
			return err
		}
		have, err := here.Procs()
		if err != nil {
			return err
		}
		moved := false
		for _, pid := range want {
			if slices.Contains(have, pid) {
				continue
			}
			if p, err := proc.Read(pid); err != nil || p.State == 'Z' {
				continue // it has ended
			}
			if err := here.Add(pid); err != nil && !ended(pid, err) {
				return err
			}
			moved = true
		}
		if !moved {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
}

// setQuota lifts the limit first: between the two writes, no pair may be more
// than a group above allows.
func (c CPULimit) setQuota(percent int) error {
	if err := write(c.Dir, "cpu.cfs_quota_us", "-1"); err != nil || percent == 0 {
		return err
	}
	quota, period := c.bandwidth(percent)
	if err := write(c.Dir, "cpu.cfs_period_us", strconv.Itoa(period)); err != nil {
		return err
	}
	return write(c.Dir, "cpu.cfs_quota_us", strconv.Itoa(quota))
}

// Restore takes the limit away and puts everything back as it was, also when
// only part of it or nothing was done, and when the group is frozen or gone. It
// may be called more than once, and by another process.
func (c CPULimit) Restore(ctx context.Context) error {
	restore := c.restoreMax
	if c.Version == 1 {
		restore = c.disband
	}
	if err := restore(ctx); err != nil {
		return fmt.Errorf("lifting the processor limit of %s: %w", c.Group, err)
	}
	return nil
}

func (c CPULimit) restoreMax(context.Context) error {
	if err := ignoreGone(write(c.Dir, "cpu.max", orMax(c.Before))); err != nil {
		return err
	}
	for _, dir := range slices.Backward(c.Enabled) {
		if limited(dir) {
			return nil // another move relies on it
		}
		err := write(dir, "cgroup.subtree_control", "-cpu")
		if errors.Is(err, syscall.EBUSY) {
			return nil // enabled for somebody else meanwhile
		}
		if ignoreGone(err) != nil {
			return err
		}
	}
	return nil
}

// limited reports whether a group directly below dir has a limit.
func limited(dir string) bool {
	entries, _ := os.ReadDir(dir) // gone: there is none
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.IsDir() && quota(filepath.Join(dir, e.Name()), 2) > 0
	})
}

// disband moves the processes back to where they were and removes their group.
func (c CPULimit) disband(ctx context.Context) error {
	if err := write(c.Dir, "cpu.cfs_quota_us", "-1"); err != nil {
		return ignoreGone(err)
	}
	g := &Group{dir: c.Dir}
	err := g.poll(ctx, func() (bool, error) {
		pids, err := g.Procs()
		if err != nil || len(pids) == 0 {
			return true, err
		}
		return false, c.From.restoreEach(pids)
	})
	if err != nil {
		return err
	}
	return g.Remove()
}
