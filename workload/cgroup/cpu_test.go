package cgroup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// spinner is a tree of two processes, of which one is busy.
const spinner = "sleep 1000 & echo ready; while :; do :; done"

// spin starts a spinner in a group of its own, in every hierarchy in which the
// group's processor time can be limited here.
func spin(t *testing.T, test func(t *testing.T, g *Group, root int)) {
	t.Helper()
	eachVersion(t, func(t *testing.T, l Layout) {
		if here, err := Detect(); err != nil {
			t.Fatal(err)
		} else if l.Mode == V1 && here.CPU.Dir == "" {
			t.Skip("this machine has no processor controller of version 1")
		}
		g := create(t, l)
		root := start(t, spinner).Process.Pid
		if _, err := g.Adopt(short(t), root); err != nil {
			t.Fatal(err)
		}
		test(t, g, root)
	})
}

func (c CPULimit) throughJSON(t *testing.T) (d CPULimit) {
	t.Helper()
	b, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// processors returns how many the group keeps busy.
func processors(g *Group) float64 {
	at, before := time.Now(), g.usage()
	time.Sleep(400 * time.Millisecond)
	return float64(g.usage()-before) / float64(time.Since(at))
}

// settings is all that a limit may change: where the processes are, and what
// the controller's files say.
func settings(t *testing.T, g *Group) string {
	t.Helper()
	pids, err := g.Procs()
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, pid := range pids {
		text += read(t, fmt.Sprintf("/proc/%d/cgroup", pid))
	}
	for dir := g.dir; len(dir) > 1; dir = filepath.Dir(dir) {
		for _, file := range []string{"cpu.max", "cgroup.subtree_control"} {
			b, _ := os.ReadFile(filepath.Join(dir, file))
			text += fmt.Sprintf("%s/%s: %s", dir, file, b)
		}
	}
	return text
}

// TestThrottle measures a slowed tree, and demands that nothing is left of it.
func TestThrottle(t *testing.T) {
	spin(t, func(t *testing.T, g *Group, root int) {
		ctx, before := short(t), settings(t, g)
		limit, err := g.CPULimit(ctx, root)
		if err != nil {
			t.Fatal(err)
		}
		if limit.Used < least || limit.Used > 1.2 {
			t.Errorf("one busy process uses %.2f processors", limit.Used)
		}
		if now := settings(t, g); now != before {
			t.Errorf("planning has changed:\n%s\nwas:\n%s", now, before)
		}
		for _, percent := range []int{50, 90, 99, 20} {
			if err := limit.Throttle(ctx, percent); err != nil {
				t.Fatal(err)
			}
			got, want := processors(g), limit.Used*float64(100-percent)/100
			t.Logf("%d%%: %.3f of %.2f processors", percent, got, limit.Used)
			if got > want*1.2+0.02 {
				t.Errorf("%d%%: uses %.3f processors, want at most %.3f", percent, got, want)
			}
		}
		if err := limit.Throttle(ctx, 0); err != nil {
			t.Fatal(err)
		}
		if free := processors(g); free < limit.Used/3 { // others want the processors too
			t.Errorf("0%%: uses %.3f processors, %.2f before", free, limit.Used)
		}
		if err := limit.Throttle(ctx, 95); err != nil {
			t.Fatal(err)
		}
		limit = limit.throughJSON(t) // another process
		for range 2 {
			if err := limit.Restore(ctx); err != nil {
				t.Fatal(err)
			}
			if now := settings(t, g); now != before {
				t.Errorf("after Restore:\n%s\nwas:\n%s", now, before)
			}
		}
		if _, err := os.Stat(limit.From.Group); limit.Version == 1 && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left behind: %v", limit.From.Group, err)
		}
	})
}

// TestThrottleForking slows a tree that forks, frozen at the end, and from two
// groups, to which each goes back.
func TestThrottleForking(t *testing.T) {
	spin(t, func(t *testing.T, g *Group, root int) {
		ctx := short(t)
		child := start(t, "echo ready; while :; do sleep 0.003; done").Process.Pid
		if err := g.Add(child); err != nil {
			t.Fatal(err)
		}
		l, err := Detect()
		if err != nil {
			t.Fatal(err)
		}
		if l.CPU.Dir != "" {
			other := &Group{dir: filepath.Join(l.CPU.Dir, fmt.Sprintf("migrate-other-%d", child))}
			if err := os.Mkdir(other.dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { removeWithin(t, other) })
			if err := other.Add(child); err != nil {
				t.Fatal(err)
			}
		}
		homes := func() string {
			return read(t, fmt.Sprintf("/proc/%d/cgroup", root)) + read(t, fmt.Sprintf("/proc/%d/cgroup", child))
		}
		before := homes()
		limit, err := g.CPULimit(ctx, root)
		if err != nil {
			t.Fatal(err)
		}
		if err := limit.Throttle(ctx, 60); err != nil {
			t.Fatal(err)
		}
		if limit.Version == 1 && homes() == before {
			t.Error("nobody was moved")
		}
		if err := g.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		if err := limit.Restore(ctx); err != nil {
			t.Errorf("Restore of a frozen tree: %v", err)
		}
		if err := g.Thaw(ctx); err != nil {
			t.Fatal(err)
		}
		if now := homes(); now != before {
			t.Errorf("after Restore:\n%s\nwas:\n%s", now, before)
		}
	})
}

func removeWithin(t *testing.T, g *Group) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	g.version = 2 // has no freezer to thaw
	if err := errors.Join(g.Kill(ctx), g.Remove()); err != nil {
		t.Errorf("cleaning up: %v", err)
	}
}

// TestRestoreAfterCrash restores what was only planned, what was begun, and what
// is gone.
func TestRestoreAfterCrash(t *testing.T) {
	spin(t, func(t *testing.T, g *Group, root int) {
		ctx, before := short(t), settings(t, g)
		limit, err := g.CPULimit(ctx, root)
		if err != nil {
			t.Fatal(err)
		}
		if err := limit.Restore(ctx); err != nil {
			t.Errorf("planned only: %v", err)
		}
		if limit.Version == 1 { // the group was made, and one of two moved
			if err := os.Mkdir(limit.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := place(limit.Dir, root); err != nil {
				t.Fatal(err)
			}
			if err := limit.Restore(ctx); err != nil {
				t.Errorf("begun: %v", err)
			}
		}
		if now := settings(t, g); now != before {
			t.Errorf("after Restore:\n%s\nwas:\n%s", now, before)
		}
		if err := limit.Throttle(ctx, 50); err != nil {
			t.Fatal(err)
		}
		if err := g.Kill(ctx); err != nil { // it was moved
			t.Fatal(err)
		}
		if err := limit.Restore(ctx); err != nil {
			t.Errorf("with no process left: %v", err)
		}
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
		if err := limit.Restore(ctx); err != nil {
			t.Errorf("with no group left: %v", err)
		}
	})
}

// TestThrottleBelowQuota slows a workload that has a limit already.
func TestThrottleBelowQuota(t *testing.T) {
	spin(t, func(t *testing.T, g *Group, root int) {
		ctx := short(t)
		l, err := Detect()
		if err != nil {
			t.Fatal(err)
		}
		if l.CPU.Dir != "" {
			home := &Group{dir: filepath.Join(l.CPU.Dir, fmt.Sprintf("migrate-home-%d", root))}
			if err := os.Mkdir(home.dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { removeWithin(t, home) })
			if err := errors.Join(write(home.dir, "cpu.cfs_quota_us", "30000"), home.Add(root)); err != nil {
				t.Fatal(err)
			}
		} else if off, err := without(l.Unified.Dir, g.dir); err != nil {
			t.Fatal(err)
		} else {
			if err := (CPULimit{Enabled: off}).enable(ctx); err != nil {
				t.Fatal(err)
			}
			if err := write(g.dir, "cpu.max", "30000 100000"); err != nil {
				t.Fatal(err)
			}
		}
		before := settings(t, g)
		limit, err := g.CPULimit(ctx, root)
		if err != nil {
			t.Fatal(err)
		}
		if limit.Used > 0.31 {
			t.Errorf("0%% means %.2f processors, 0.3 are allowed", limit.Used)
		}
		for _, percent := range []int{20, 0} {
			if err := limit.Throttle(ctx, percent); err != nil {
				t.Fatal(err)
			}
			if got, want := processors(g), 0.3*float64(100-percent)/100; got > want*1.25+0.02 {
				t.Errorf("%d%%: uses %.2f processors, want at most %.2f", percent, got, want)
			}
		}
		if err := limit.Restore(ctx); err != nil {
			t.Fatal(err)
		}
		if now := settings(t, g); now != before {
			t.Errorf("after Restore:\n%s\nwas:\n%s", now, before)
		}
	})
}

func TestBandwidthOf(t *testing.T) {
	for _, c := range []struct {
		used                   float64
		percent, quota, period int
	}{
		{1, 20, 40000, 50000}, {1, 95, 2500, 50000}, {2, 50, 50000, 50000}, {0.3, 95, 1000, 66666}, {0.1, 99, 1000, 1000000}, {64, 0, 3200000, 50000},
	} {
		quota, period := (CPULimit{Used: c.used}).bandwidth(c.percent)
		if quota < c.quota-1 || quota > c.quota+1 || period < c.period-1 || period > c.period+1 {
			t.Errorf("%v processors slowed by %d%%: %d of %d us, want %d of %d", c.used, c.percent, quota, period, c.quota, c.period)
		}
	}
	for _, percent := range []int{-1, 100} {
		if err := (CPULimit{}).Throttle(t.Context(), percent); err == nil || !strings.Contains(err.Error(), "0 to 99") {
			t.Errorf("Throttle(%d) = %v", percent, err)
		}
	}
}
