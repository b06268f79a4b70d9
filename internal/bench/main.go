// Command bench measures moves beside what people do without migrate, in the
// same run on the same machine, so that the ratios mean something where the
// figures themselves are noisy. Downtime is the largest gap that the workload
// itself or its client saw. Its result is an array of JSON objects, one for each
// contender.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"migrate"
	"migrate/internal/atomicfile"
)

// Entry is what one contender did in one scenario. The lists have one value
// for each run, in order.
type Entry struct {
	Scenario  string    `json:"scenario"`
	Contender string    `json:"contender"` // "plain-criu", "criu-lazy" or "migrate"
	Tracker   string    `json:"tracker"`   // "" where there is none
	RSS       uint64    `json:"rss_bytes"` // of the workload's memory
	Downtime  []float64 `json:"downtime_ms"`
	Frozen    []float64 `json:"frozen_ms"`
	Total     []float64 `json:"total_ms"`
	Wire      []uint64  `json:"wire_bytes"`
	AgentPeak []uint64  `json:"source_peak_rss_bytes,omitempty"` // of the source process, over its whole life

	Before []float64            `json:"stall_before_ms,omitempty"` // the client's largest gap before that of the move itself
	After  []float64            `json:"stall_after_ms,omitempty"`  // and after it, until 2 s after the contender has finished
	Parts  map[string][]float64 `json:"parts_ms,omitempty"`        // of the downtime, by phase, as migrate reports them
}

// A scenario measures its contenders in turn and returns one entry for each.
type scenario struct {
	name  string
	asked bool // runs only when asked for
	run   func(ctx context.Context, name string, runs int) ([]Entry, error)
}

var scenarios = []scenario{
	{"capsule-256m-unshaped", false, capsule{mib: 256, dirty: 1000, trackers: trackers}.run},
	{"capsule-64m-unshaped", false, capsule{mib: 64, dirty: 1000, trackers: trackers}.run},
	{"redis-1g-1gbit", false, redis{gib: 1, rate: "1gbit"}.run},
	{"idle-1g", true, capsule{mib: 1 << 10, trackers: trackers[:3]}.run},
	{"idle-4g", true, capsule{mib: 4 << 10, trackers: trackers[:3]}.run},
}

// trackers are migrate's contenders where the machine can run them. The last
// one copies all memory while the workload is frozen.
var trackers = []migrate.Tracker{migrate.TrackerSoftDirty, migrate.TrackerUffdWP, migrate.TrackerHash, migrate.TrackerNone}

// chosen reports whether a scenario runs when only is asked for: its name, or
// what begins its name and those of others, or "" for what runs by default.
func (s scenario) chosen(only string) bool {
	if only == "" {
		return !s.asked
	}
	return s.name == only || strings.HasPrefix(s.name, only+"-")
}

func main() {
	out := flag.String("o", "build/bench.json", "`file` for the result")
	only := flag.String("only", "", "`scenario` to run, or how the names of some begin (default all that are quick)")
	runs := flag.Int("runs", 5, "`number` of runs of each contender")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, *out, *only, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, only string, runs int) error {
	all, err := earlier(out)
	if err != nil {
		return err
	}
	found := false
	for _, s := range scenarios {
		if !s.chosen(only) {
			continue
		}
		found = true
		entries, err := s.run(ctx, s.name, runs)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		show(os.Stdout, entries)
		all = slices.DeleteFunc(all, func(e Entry) bool { return e.Scenario == s.name })
		all = append(all, entries...)
	}
	if !found {
		return fmt.Errorf("no scenario %q", only)
	}
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(out, append(b, '\n'), 0o644)
}

// earlier reads the entries of scenarios that are not run this time.
func earlier(path string) ([]Entry, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var e []Entry
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}
