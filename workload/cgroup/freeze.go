package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// stuck is how long a version 1 freezer may stay FREEZING before it is thawed
// and frozen anew: a task that was between two freezable waits when the request
// came can keep it there for ever.
const stuck = 50 * time.Millisecond

// Freeze freezes the group and those below it and returns when every task has
// stopped. On an error, that of ctx included, the group may be frozen in part:
// call Thaw.
//
// A task in uninterruptible sleep (state D) is waited for. In version 2 a task
// that a tracer holds stopped counts as frozen.
func (g *Group) Freeze(ctx context.Context) error {
	if err := g.freeze(ctx); err != nil {
		return fmt.Errorf("freezing cgroup %s: %w", g.dir, err)
	}
	return nil
}

func (g *Group) freeze(ctx context.Context) error {
	if err := g.request(true); err != nil {
		return err
	}
	since := time.Now()
	return g.poll(ctx, func() (bool, error) {
		frozen, err := g.Frozen()
		if frozen || err != nil {
			return frozen, err
		}
		if g.version == 1 && time.Since(since) > stuck {
			since = time.Now()
			return false, errors.Join(g.request(false), g.request(true))
		}
		return false, nil
	})
}

// Thaw lets the group run and returns when the kernel says that it does. With
// a frozen group above it that is never, and the error is that of ctx.
func (g *Group) Thaw(ctx context.Context) error {
	err := g.request(false)
	if err == nil {
		err = g.poll(ctx, g.thawed)
	}
	if err != nil {
		return fmt.Errorf("thawing cgroup %s: %w", g.dir, err)
	}
	return nil
}

func (g *Group) thawed() (bool, error) {
	if g.version == 1 {
		state, err := g.read("freezer.state")
		return state == "THAWED", err
	}
	frozen, err := g.Frozen()
	return !frozen, err
}

// Frozen reports whether every task of the group has stopped: the kernel's
// answer ("frozen 1" in cgroup.events, FROZEN in freezer.state), not what was
// asked for. It is also true when a group above is what is frozen, and for a
// group that is asked to freeze and has no task.
//
// It says nothing about CRIU: during a dump CRIU thaws the group and holds the
// tasks by ptrace(2), and Frozen is false although no task runs.
func (g *Group) Frozen() (bool, error) {
	if g.version == 1 {
		state, err := g.read("freezer.state")
		return state == "FROZEN", err
	}
	events, err := g.read("cgroup.events")
	return strings.Contains("\n"+events+"\n", "\nfrozen 1\n"), err
}

func (g *Group) request(freeze bool) error {
	if g.version == 1 {
		return write(g.dir, "freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[freeze])
	}
	return write(g.dir, "cgroup.freeze", map[bool]string{true: "1", false: "0"}[freeze])
}

func (g *Group) read(file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	return strings.TrimSpace(string(b)), err
}
