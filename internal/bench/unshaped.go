package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/internal/testhost"
	"migrate/internal/testload"
)

const address = "127.0.0.1:7001" // of the workload, on the host that it is on

// dirty is how many pages a second the workload rewrites.
const dirty = "1000"

// unshaped compares, between two hosts with nothing to slow the link, one and
// the same program: dumped to memory and restored by plain CRIU on its own
// host, and moved to the other host.
func unshaped(ctx context.Context, name string, runs, mib int) ([]Entry, error) {
	set, err := testhost.Start(testhost.Options{Set: "bench", Names: []string{"A", "B"}})
	if err != nil {
		return nil, err
	}
	entries, err := measure(ctx, set, name, runs, mib)
	return entries, errors.Join(err, set.Down())
}

func measure(ctx context.Context, set *testhost.Set, name string, runs, mib int) ([]Entry, error) {
	entries := []Entry{
		{Scenario: name, Contender: "plain-criu"},
		{Scenario: name, Contender: "migrate", Tracker: string(migrate.TrackerHash)},
		{Scenario: name, Contender: "migrate", Tracker: string(migrate.TrackerNone)},
	}
	for range runs {
		for i := range entries {
			if err := once(ctx, set, &entries[i], mib); err != nil {
				return nil, fmt.Errorf("%s %s: %w", entries[i].Contender, entries[i].Tracker, err)
			}
		}
	}
	return entries, nil
}

// once starts the workload, has the contender do its work, and ends it.
func once(ctx context.Context, set *testhost.Set, e *Entry, mib int) error {
	a := set.Host("A")
	pid, err := a.Start(ctx, "testload", "--memory", strconv.Itoa(mib), "--dirty", dirty, "--hot", "0.1", "--listen", address)
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
	host := a
	if e.Contender == "plain-criu" {
		err = plain(ctx, a, e, pid)
	} else {
		host = set.Host("B")
		err = moved(ctx, a, e, pid)
	}
	if err != nil {
		return err
	}
	after, err := testload.Ask(ctx, host, address, "verify")
	if err != nil {
		return err
	}
	if err := after.Check(); err != nil {
		return err
	}
	e.Downtime = append(e.Downtime, after.Gap)
	return host.KillAll(ctx, "testload")
}

func ready(ctx context.Context, h *testhost.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
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

// moved is "migrate move".
func moved(ctx context.Context, h *testhost.Host, e *Entry, pid int) error {
	const script = `migrate move process:$1 B --json --tracker $2 & p=$!
		while kill -0 $p 2>/dev/null; do grep VmHWM /proc/$p/status 2>/dev/null; sleep 0.05; done | tail -n 1
		wait $p`
	out, err := h.Output(ctx, "sh", "-c", script, "sh", strconv.Itoa(pid), e.Tracker)
	if err != nil {
		return err
	}
	r, err := testhost.Report(out)
	if err != nil {
		return err
	}
	e.Frozen = append(e.Frozen, float64(r.FrozenTime)/1e6)
	e.Total = append(e.Total, float64(r.TotalTime)/1e6)
	e.Wire = append(e.Wire, r.Transferred)
	return e.addPeak(out)
}

// addPeak finds the line of /proc/PID/status that tells the peak of memory.
func (e *Entry) addPeak(out string) error {
	_, line, _ := strings.Cut(out, "VmHWM:")
	var kib uint64
	if _, err := fmt.Sscan(line, &kib); err != nil {
		return fmt.Errorf("peak of memory: %w", err)
	}
	e.AgentPeak = append(e.AgentPeak, kib<<10)
	return nil
}
