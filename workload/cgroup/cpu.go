package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"migrate/workload/proc"
)

// CPULimit slows the processes of a group. It is plain data, for a journal: made
// by [Group.CPULimit] before anything is changed, it has all that another process
// needs for [CPULimit.Restore].
//
// In version 2 the limit is the group's own cpu.max. Where the processor
// controller is in a hierarchy of version 1, the processes are moved there to
// a group below that of the tree's root, so that limits which they have go on to
// hold; the group is removed with the limit.
//
// While the limit is there, CRIU sees it: a dump with cgroup properties (any
// --manage-cgroups-mode but ignore) must come after Restore.
type CPULimit struct {
	Group   string    `json:"group"`              // whose processes are slowed
	Dir     string    `json:"dir"`                // of the group that has the limit
	Version int       `json:"version"`            // of its hierarchy
	Before  string    `json:"before,omitempty"`   // version 2: cpu.max as it was; "" when there was none
	Enabled []string  `json:"enabled,omitempty"`  // version 2: groups in which the controller is enabled for it, upper first
	From    Placement `json:"placement,omitzero"` // version 1: where the processes were
	Used    float64   `json:"used-processors"`    // what 0 percent means
}

// least is the smallest part of a processor that 0 percent may mean.
const least = 0.1

// CPULimit prepares to slow the group, of which root is a process. It changes
// nothing, and takes a quarter of a second to see how much processor time the
// group uses: percentages are of that, or of the quota it has if that is less,
// so that one busy thread on a host with many processors is slowed too.
func (g *Group) CPULimit(ctx context.Context, root int) (CPULimit, error) {
	l, err := Detect()
	if err != nil {
		return CPULimit{}, fmt.Errorf("processor limit: %w", err)
	}
	limit, err := g.cpuLimit(l, root)
	if err == nil {
		limit.Used, err = g.busiest(ctx)
	}
	if err != nil {
		return CPULimit{}, fmt.Errorf("processor limit for %s: %w", g.dir, err)
	}
	limit.Used = min(max(limit.Used, least), limit.allowed(l), float64(runtime.NumCPU()))
	return limit, nil
}

func (g *Group) cpuLimit(l Layout, root int) (CPULimit, error) {
	if l.CPU.Dir != "" {
		return g.limitElsewhere(l, root)
	}
	if g.version != 2 {
		return CPULimit{}, errors.New("the processor controller is in the unified hierarchy, the group is not")
	}
	limit := CPULimit{Group: g.dir, Dir: g.dir, Version: 2}
	before, err := g.read("cpu.max")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return limit, err
	}
	limit.Before = before
	limit.Enabled, err = without(l.Unified.Dir, g.dir)
	return limit, err
}

// without lists the groups from top down to above dir that do not pass the
// processor controller on.
func without(top, dir string) (list []string, err error) {
	for up := filepath.Dir(dir); ; up = filepath.Dir(up) {
		b, err := os.ReadFile(filepath.Join(up, "cgroup.subtree_control"))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(strings.Fields(string(b)), "cpu") {
			list = append(list, up)
		}
		if up == filepath.Clean(top) || len(up) <= 1 {
			slices.Reverse(list)
			return list, nil
		}
	}
}

func (g *Group) limitElsewhere(l Layout, root int) (CPULimit, error) {
	home, err := l.dirOf(l.CPU, root)
	if err != nil {
		return CPULimit{}, err
	}
	limit := CPULimit{Group: g.dir, Version: 1, Dir: filepath.Join(home, "migrate-"+filepath.Base(g.dir))}
	limit.From = Placement{Group: limit.Dir, Root: home}
	pids, err := g.Procs()
	for _, pid := range pids {
		p, perr := proc.Read(pid)
		dir, derr := l.dirOf(l.CPU, pid)
		if perr == nil && derr == nil { // else it has ended, or goes to where the root was
			limit.From.From = append(limit.From.From, Moved{PID: pid, Start: p.Start, Dir: dir})
		}
	}
	return limit, err
}

// allowed returns how many processors the group may use at most: the least of
// its own quota and of those above it.
func (c CPULimit) allowed(l Layout) float64 {
	top, dir := l.Unified.Dir, c.Dir
	if c.Version == 1 {
		top, dir = l.CPU.Dir, c.From.Root
	}
	least := float64(runtime.NumCPU())
	for ; len(dir) >= len(top); dir = filepath.Dir(dir) {
		if n := quota(dir, c.Version); n > 0 {
			least = min(least, n)
		}
		if len(dir) <= 1 {
			break
		}
	}
	return least
}

// quota returns the processors that a group's own limit allows, 0 if it has none.
func quota(dir string, version int) float64 {
	g := Group{dir: dir}
	text, _ := g.read("cpu.max") // the top has none
	if version == 1 {
		most, _ := g.read("cpu.cfs_quota_us")
		period, _ := g.read("cpu.cfs_period_us")
		text = most + " " + period
	}
	var most, period float64
	if n, _ := fmt.Sscan(text, &most, &period); n != 2 || most <= 0 || period <= 0 {
		return 0 // "max" or -1
	}
	return most / period
}

// busiest returns how many processors the group kept busy in the busiest of
// some short times.
func (g *Group) busiest(ctx context.Context) (float64, error) {
	const looks, pause = 5, 50 * time.Millisecond
	most := 0.0
	at, before := time.Now(), g.usage()
	for range looks {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		now, used := time.Now(), g.usage()
		most = max(most, float64(used-before)/float64(now.Sub(at)))
		at, before = now, used
	}
	return most, nil
}

// usage returns the processor time that the group has used: cpu.stat, which
// every group of version 2 has, or what its living threads have used.
func (g *Group) usage() time.Duration {
	if text, err := g.read("cpu.stat"); err == nil && g.version == 2 {
		var us int64
		if n, _ := fmt.Sscanf(text, "usage_usec %d", &us); n == 1 {
			return time.Duration(us) * time.Microsecond
		}
	}
	var sum time.Duration
	pids, _ := g.Procs() // none: nothing is used
	for _, pid := range pids {
		tids, _ := proc.Threads(pid)
		for _, tid := range tids {
			sum += threadUsage(pid, tid)
		}
	}
	return sum
}

// threadUsage reads the first number of schedstat, ns on a processor
// (Documentation/scheduler/sched-stats.rst).
func threadUsage(pid, tid int) (ns time.Duration) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, tid)) // it may have ended
	first, _, _ := strings.Cut(string(b), " ")
	n, _ := strconv.ParseInt(first, 10, 64)
	return time.Duration(n)
}

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
