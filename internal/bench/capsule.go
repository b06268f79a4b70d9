package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/internal/testhost"
	"migrate/internal/testload"
)

const address = "127.0.0.1:7001" // of the workload, on the host that it is on

// capsule compares, between two hosts with nothing to slow the link, one and
// the same program that checks itself: dumped to memory and restored by plain
// CRIU on its own host, and moved to the other host.
type capsule struct {
	mib      int // of memory
	dirty    int // pages rewritten per second
	trackers []migrate.Tracker
}

func (c capsule) run(ctx context.Context, name string, runs int) ([]Entry, error) {
	set, err := testhost.Start(testhost.Options{Set: "bench", Names: []string{"A", "B"}})
	if err != nil {
		return nil, err
	}
	entries := contenders(name, []string{"plain-criu"}, c.trackers)
	entries, err = inTurn(entries, runs, func(e *Entry) error { return c.once(ctx, set, e) })
	return entries, errors.Join(err, set.Down())
}

// once starts the workload, has the contender do its work, and ends it.
func (c capsule) once(ctx context.Context, set *testhost.Set, e *Entry) error {
	a, b := set.Host("A"), set.Host("B")
	pid, err := a.Start(ctx, "testload", "--memory", strconv.Itoa(c.mib), "--dirty", strconv.Itoa(c.dirty), "--hot", "0.1", "--tick", "1ms", "--listen", address)
	if err != nil {
		return err
	}
	if err := ready(ctx, a); err != nil {
		return err
	}
	before, err := testload.Ask(ctx, a, address, "reset-gap")
	if err != nil {
		return err
	}
	e.RSS = uint64(before.MemoryBytes)
	host := b
	if e.Contender == "plain-criu" {
		host = a
		err = plain(ctx, a, e, pid)
	} else {
		err = moved(ctx, a, b, e, pid)
	}
	if err != nil && !errors.Is(err, errUnavailable) {
		return err
	}
	after, failed := testload.Ask(ctx, host, address, "verify")
	if failed == nil {
		failed = after.Check()
	}
	failed = errors.Join(failed, host.KillAll(ctx, "testload"))
	if failed != nil || err != nil {
		return errors.Join(err, failed)
	}
	e.Downtime = append(e.Downtime, after.Gap)
	return nil
}

func ready(ctx context.Context, h *testhost.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, err := testload.Await(ctx, h, address)
	return err
}

// plain is "criu dump" into the host's memory and "criu restore" from there,
// with nothing else in between. What it froze is not kept apart from what else
// the dump took.
func plain(ctx context.Context, h *testhost.Host, e *Entry, pid int) error {
	const script = `mkdir /run/plain && cd /run/plain && a=$(date +%s%N) &&
		"$2" dump -t $1 -D . -o dump.log -v1 && b=$(date +%s%N) &&
		"$2" restore -d -D . -o restore.log -v1 && echo $((b - a)); s=$?
		[ $s = 0 ] || tail -5 *.log >&2; rm -rf /run/plain; exit $s`
	tool, err := criu.Find(ctx, "")
	if err != nil {
		return err
	}
	begun := time.Now()
	out, err := h.Output(ctx, "sh", "-c", script, "sh", strconv.Itoa(pid), tool.Path)
	if err != nil {
		return err
	}
	e.Total = append(e.Total, float64(time.Since(begun))/1e6)
	var dump time.Duration
	if _, err := fmt.Sscanf(out, "%d", &dump); err != nil {
		return fmt.Errorf("time of the dump: %w", err)
	}
	e.Frozen = append(e.Frozen, float64(dump)/1e6)
	e.Wire = append(e.Wire, 0)
	return nil
}
