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
