package cgroup

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/workload/proc"
)

// eachVersion runs the test in every hierarchy of this host that can freeze.
func eachVersion(t *testing.T, test func(*testing.T, Layout)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cgroups belong to root")
	}
	l, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range l.freezers() {
		one, name := Layout{Mode: V2, Unified: m}, "v2"
		if m == l.Freezer {
			one, name = Layout{Mode: V1, Freezer: m}, "v1"
		}
		t.Run(name, func(t *testing.T) { test(t, one) })
	}
}

// create makes a group that is gone with everything in it when the test ends.
func create(t *testing.T, l Layout) *Group {
	t.Helper()
	g, err := l.Create(fmt.Sprintf("test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(g.Kill(ctx), g.Remove()); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return g
}

// start runs a shell script in a session of its own, which is killed with all
// its children when the test ends.
func start(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer in.Close()
	cmd.Stdout = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // not in a cleanup: it may be frozen until create's
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("script said %q, %v", line, err)
	}
	return cmd
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// counter is a script whose process writes a growing number to a file.
func counter(file string) string {
	return fmt.Sprintf("i=0; while :; do i=$((i+1)); echo $i >%s; [ $i = 1 ] && echo ready; done", file)
}

func TestFreezeThaw(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g, ctx := create(t, l), short(t)
		file := filepath.Join(t.TempDir(), "count")
		cmd := start(t, counter(file))
		if err := g.Add(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := g.Freeze(ctx); err != nil {
				t.Fatal(err)
			}
			if ok, err := g.Frozen(); err != nil || !ok {
				t.Fatalf("Frozen = %v, %v, want true", ok, err)
			}
			before := read(t, file)
			time.Sleep(5 * time.Millisecond)
			if after := read(t, file); after != before {
				t.Fatalf("went on while frozen: %q to %q", before, after)
			}
			if err := g.Thaw(ctx); err != nil {
				t.Fatal(err)
			}
			if ok, err := g.Frozen(); err != nil || ok {
				t.Fatalf("Frozen = %v, %v, want false", ok, err)
			}
			for read(t, file) == before {
				if err := ctx.Err(); err != nil {
					t.Fatal("did not go on after the thaw")
				}
				time.Sleep(time.Millisecond)
			}
		}
	})
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFreezeFailsWithContext(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g := create(t, l)
		cmd := start(t, "echo ready; sleep 100")
		if err := g.Add(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := g.Freeze(ctx); err != nil && !errors.Is(err, cause) {
			t.Errorf("Freeze = %v, want %v or success", err, cause)
		}
		if err := g.Thaw(short(t)); err != nil {
			t.Error(err)
		}
	})
}

func TestKillFrozen(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g, ctx := create(t, l), short(t)
		cmd := start(t, "sleep 100 & sleep 100 & echo ready; wait; echo never >&2")
		if _, err := g.Adopt(ctx, cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := g.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		if pids, err := g.Procs(); err != nil || len(pids) != 3 {
			t.Errorf("Procs = %v, %v, want 3", pids, err)
		}
		if err := g.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		if pids, err := g.Procs(); err != nil || len(pids) != 0 {
			t.Errorf("after Kill: Procs = %v, %v", pids, err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if err := g.Remove(); err != nil {
			t.Errorf("second Remove = %v, want nil", err)
		}
	})
}

// TestKillForking kills what forks as fast as it can.
func TestKillForking(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g, ctx := create(t, l), short(t)
		cmd := start(t, "echo ready; while :; do (sleep 0.01 &) ; done")
		if err := g.Add(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
		if err := g.Kill(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAdoptForking gathers a tree that forks all the while and puts it back.
func TestAdoptForking(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g, old, ctx := create(t, l), create(t, l), short(t)
		child := "while :; do sleep 0.003; done"
		cmd := start(t, fmt.Sprintf("for i in 1 2 3 4; do (%s) & done; echo ready; %s", child, child))
		root := cmd.Process.Pid
		if err := old.Add(root); err != nil {
			t.Fatal(err)
		}
		p, err := g.Adopt(ctx, root)
		if err != nil {
			t.Fatal(err)
		}
		if p.Root != old.Path() || p.Group != g.Path() || len(p.From) < 5 {
			t.Errorf("Adopt = %+v", p)
		}
		if err := g.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		sameProcesses(t, g, root)
		if err := g.Thaw(ctx); err != nil {
			t.Fatal(err)
		}
		if err := throughJSON(t, p).Restore(ctx); err != nil {
			t.Fatal(err)
		}
		if pids, _ := g.Procs(); len(pids) != 0 {
			t.Errorf("after Restore: Procs = %v", pids)
		}
		if pids, err := old.Procs(); err != nil || !slices.Contains(pids, root) {
			t.Errorf("old group: %v, %v, want the root %d", pids, err, root)
		}
	})
}

// TestBefore undoes an Adopt of which nothing more is known.
func TestBefore(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g, old, ctx := create(t, l), create(t, l), short(t)
		root := start(t, "sleep 100 & echo ready; wait").Process.Pid
		if _, err := old.Adopt(ctx, root); err != nil {
			t.Fatal(err)
		}
		before, err := g.Before(root)
		if err != nil || before.Root != old.Path() || before.Group != g.Path() {
			t.Fatalf("Before = %+v, %v", before, err)
		}
		if _, err := g.Adopt(ctx, root); err != nil {
			t.Fatal(err)
		}
		if err := throughJSON(t, before).Restore(ctx); err != nil {
			t.Fatal(err)
		}
		sameProcesses(t, old, root)
	})
}

func sameProcesses(t *testing.T, g *Group, root int) {
	t.Helper()
	tree, err := proc.Descendants(root)
	if err != nil {
		t.Fatal(err)
	}
	var want []int
	for _, p := range tree {
		if p.State != 'Z' {
			want = append(want, p.PID)
		}
	}
	slices.Sort(want)
	if got, err := g.Procs(); err != nil || !slices.Equal(got, want) {
		t.Errorf("Procs = %v, %v, want the tree %v", got, err, want)
	}
}

func throughJSON(t *testing.T, p Placement) (q Placement) {
	t.Helper()
	b, err := json.Marshal(p)
	if err == nil {
		err = json.Unmarshal(b, &q)
	}
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestRestoreToRootWhenGroupIsGone(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g, ctx := create(t, l), short(t)
		cmd := start(t, "echo ready; sleep 100")
		p, err := g.Adopt(ctx, cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		p.From[0].Dir = filepath.Join(filepath.Dir(g.Path()), "no-such-group")
		if err := p.Restore(ctx); err != nil {
			t.Fatal(err)
		}
		p.Root = p.From[0].Dir
		if err := g.Add(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := p.Restore(ctx); err == nil {
			t.Error("Restore into groups that are gone = nil, want an error")
		}
	})
}

func TestAdoptGone(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g := create(t, l)
		cmd := exec.Command("true")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Adopt(short(t), cmd.Process.Pid); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("Adopt(gone) = %v, want ESRCH", err)
		}
	})
}

func TestDedicated(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g, ctx := create(t, l), short(t)
		cmd := start(t, "sleep 100 & echo ready; wait")
		root := cmd.Process.Pid
		tree, err := proc.Descendants(root)
		if err != nil || len(tree) != 2 {
			t.Fatalf("Descendants = %v, %v", tree, err)
		}
		pids := []int{tree[1].PID, root}
		if got, ok := l.Dedicated(root, pids); ok {
			t.Errorf("Dedicated = %v before, want none", got)
		}
		if _, err := g.Adopt(ctx, root); err != nil {
			t.Fatal(err)
		}
		if got, ok := l.Dedicated(root, pids); !ok || got.Path() != g.Path() {
			t.Errorf("Dedicated = %v, %v, want %s", got, ok, g.Path())
		}
		if got, ok := l.Dedicated(root, pids[1:]); ok {
			t.Errorf("Dedicated(root alone) = %v, want none", got)
		}
	})
}

func TestProcsBelow(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g := create(t, l)
		cmd := start(t, "echo ready; exec sleep 100")
		below := filepath.Join(g.Path(), "below")
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := place(below, cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if pids, err := g.Procs(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
			t.Errorf("Procs = %v, %v, want %d", pids, err, cmd.Process.Pid)
		}
		if err := g.Freeze(short(t)); err != nil {
			t.Error(err)
		}
		// A group below that is frozen by itself must not survive Kill.
		if err := (&Group{dir: below, version: g.version}).Freeze(short(t)); err != nil {
			t.Error(err)
		}
	})
}

func TestCreateTwiceAndOpen(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g := create(t, l)
		again, err := l.Create(filepath.Base(g.Path()))
		if err != nil || *again != *g {
			t.Errorf("second Create = %v, %v, want %v", again, err, g)
		}
		opened, err := Open(g.Path())
		if err != nil || *opened != *g || !slices.Equal(opened.Dirs(), []string{g.Path()}) {
			t.Errorf("Open = %v, %v, want %v", opened, err, g)
		}
		if !strings.Contains(g.Path(), "/migrate/") {
			t.Errorf("Path = %s, want it under migrate", g.Path())
		}
	})
}

func TestBadNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a\nb"} {
		if g, err := (Layout{}).Create(name); err == nil {
			t.Errorf("Create(%q) = %v, want an error", name, g)
		}
	}
	if g, err := Open(t.TempDir()); err == nil {
		t.Errorf("Open(no cgroup) = %v, want an error", g)
	}
}

func TestFrozenWhileStopped(t *testing.T) {
	eachVersion(t, func(t *testing.T, l Layout) {
		g, ctx := create(t, l), short(t)
		cmd := start(t, "echo ready; kill -STOP $$; sleep 100")
		if err := g.Add(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := g.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		if err := g.Thaw(ctx); err != nil {
			t.Fatal(err)
		}
	})
}
