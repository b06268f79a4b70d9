package main

import (
	"context"
	"encoding/json"
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
	before, err := ask(ctx, a, "reset-gap")
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
	after, err := ask(ctx, host, "verify")
	if err != nil {
		return err
	}
	if !after.OK {
		return fmt.Errorf("the workload found: %q", after.Errors)
	}
	e.Downtime = append(e.Downtime, after.Gap)
	if _, err := host.Output(ctx, "pkill", "-KILL", "-x", "testload"); err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // the supervisor's end, and the memory's
	return nil
}

func ready(ctx context.Context, h *testhost.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if _, err := ask(ctx, h, "verify"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the workload does not answer")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func ask(ctx context.Context, h *testhost.Host, request string) (s testload.Status, err error) {
	out, err := h.Output(ctx, "testload", "query", address, request)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
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
	for line := range strings.Lines(out) {
		if err := note(e, line); err != nil {
			return err
		}
	}
	return nil
}

// note takes one line of output: a JSON object, or the peak of memory.
func note(e *Entry, line string) error {
	if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
		kib, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
		e.AgentPeak = append(e.AgentPeak, kib<<10)
		return err
	}
	var r migrate.Report
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return fmt.Errorf("output %.80q: %w", line, err)
	}
	if r.Type != "result" {
		return nil
	}
	e.Frozen = append(e.Frozen, float64(r.FrozenTime)/1e6)
	e.Total = append(e.Total, float64(r.TotalTime)/1e6)
	e.Wire = append(e.Wire, r.Transferred)
	return nil
}
