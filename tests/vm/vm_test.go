package vm

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	withVMs     = flag.Bool("vm", os.Getenv("VM_TEST") != "", "run the scenarios in virtual machines (or VM_TEST)")
	kernelPairs = flag.String("kernels", "", "kernels of A and B, such as 6.1,7.2 6.12,6.12, or all: every ordered pair (default as in vms.json, and only the scenarios of every commit)")
)

// TestMain leaves the scenarios out, rather than skip them, unless they were
// asked for.
func TestMain(m *testing.M) {
	flag.Parse()
	if !*withVMs {
		skip := flag.Lookup("test.skip")
		if err := skip.Value.Set(strings.Trim(skip.Value.String()+"|^TestVM", "|")); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// scenario is one story between two machines.
type scenario struct {
	name     string
	always   bool                   // also run with every commit
	fits     func(a, b Kernel) bool // nil for all kernels
	machines machines
	large    bool // only with -large
	run      func(*stage)
}

// machines says what is particular about those of a scenario.
type machines struct {
	memory  int           // MiB of each (default as in vms.json)
	cpuB    string        // model of B's (default as in vms.json)
	uptimeA time.Duration // for how long A seems to have been up before it booted
}

// ring tells of half of the ordered pairs, in which each kernel is once the
// source and once the target: for scenarios to which it hardly matters.
func ring(a, b Kernel) bool {
	next := map[string]string{"6.1": "6.12", "6.12": "7.2", "7.2": "6.1"}
	return a == b || next[a.Label()] == b.Label()
}

// once tells of the pair that every commit is tested with.
func once(a, b Kernel) bool { return a == b || a.Label() == "6.12" && b.Label() == "7.2" }

// scenarios returns all, those for the same machines together.
func scenarios() []scenario {
	if os.Getenv(failing) != "" {
		return []scenario{{name: "fails", always: true, run: (*stage).fails}}
	}
	s := slices.Concat(moves, trackers, clocks, refusals, links, containers, sizes)
	slices.SortStableFunc(s, func(a, b scenario) int {
		return strings.Compare(fmt.Sprint(a.machines), fmt.Sprint(b.machines))
	})
	return s
}

// TestVM runs the scenarios for each pair of kernels.
func TestVM(t *testing.T) {
	root, err := SourceTree()
	if err != nil {
		t.Fatal(err)
	}
	d, err := Defined()
	if err != nil {
		t.Fatal(err)
	}
	im, err := ReadyImage(t.Context(), d, root, false, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	pairs, err := parsePairs(*kernelPairs, d, im)
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	report := cmp.Or(os.Getenv("VM_REPORT"), filepath.Join(root, "build", "vm-report.json"))
	t.Cleanup(func() {
		if err := writeRows(report, rows); err != nil {
			t.Error(err)
		}
		fmt.Print(Table(rows))
	})
	for _, p := range pairs {
		t.Run(p[0].Label()+"_"+p[1].Label(), func(t *testing.T) {
			b := bench{root: root, kernels: p}
			t.Cleanup(b.stop)
			for _, s := range scenarios() {
				if (s.large && !*withLarge) || (*kernelPairs == "" && !s.always) || (s.fits != nil && !s.fits(p[0], p[1])) {
					continue
				}
				row := Row{Scenario: s.name, Kernels: p[0].Label() + " to " + p[1].Label(), Verdict: "fail"}
				start, ran := time.Now(), false
				if t.Run(s.name, func(t *testing.T) { ran = true; s.run(b.stage(t, &row, s.machines)) }) {
					row.Verdict = "pass"
				}
				if !ran { // -run left it out
					continue
				}
				row.Seconds = time.Since(start).Round(100 * time.Millisecond).Seconds()
				rows = append(rows, row)
			}
		})
	}
}

// parsePairs reads -kernels.
func parsePairs(s string, d Definition, im Image) (pairs [][2]Kernel, err error) {
	if s == "all" {
		for _, a := range im.Kernels {
			for _, b := range im.Kernels {
				if a != b {
					pairs = append(pairs, [2]Kernel{a, b})
				}
			}
		}
		return pairs, nil
	}
	if s == "" {
		s = d.Hosts[0].Kernel + "," + d.Hosts[1].Kernel
	}
	for _, names := range strings.Fields(s) {
		a, b, ok := strings.Cut(names, ",")
		if !ok {
			return nil, fmt.Errorf("-kernels: %q is not a pair", names)
		}
		ka, err := im.Kernel(a)
		if err != nil {
			return nil, err
		}
		kb, err := im.Kernel(b)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, [2]Kernel{ka, kb})
	}
	return pairs, nil
}

// bench keeps two machines for the scenarios of a pair of kernels. After one
// that failed, or for one that needs another size, they are started afresh.
type bench struct {
	root     string
	kernels  [2]Kernel
	set      *Set
	machines machines // of set
}

func (b *bench) stop() {
	if b.set != nil {
		b.set.Stop()
		b.set = nil
	}
}

// stage readies the machines for a scenario.
func (b *bench) stage(t *testing.T, row *Row, want machines) *stage {
	t.Helper()
	if b.machines != want {
		b.stop()
	}
	if b.set == nil {
		start := time.Now()
		set, err := Start(t.Context(), Options{
			Root: b.root, Log: os.Stderr, Memory: want.memory,
			Kernels: map[string]string{"A": b.kernels[0].Version, "B": b.kernels[1].Version},
			CPU:     map[string]string{"B": want.cpuB},
			Uptime:  map[string]time.Duration{"A": want.uptimeA},
		})
		if err != nil {
			t.Fatal(err)
		}
		b.set, b.machines = set, want
		t.Logf("machines ready after %v", time.Since(start).Round(100*time.Millisecond))
	}
	before := b.set.processorTime()
	s := &stage{T: t, set: b.set, a: b.set.Machine("A"), b: b.set.Machine("B"), row: row}
	t.Cleanup(func() {
		row.Processor = (b.set.processorTime() - before).Seconds()
		t.Logf("the machines used %.0f s of processors", row.Processor)
		if t.Failed() {
			s.explain()
			b.stop()
		} else if err := s.clear(); err != nil {
			t.Errorf("clearing the stage: %v", err)
			b.stop()
		}
	})
	return s
}

// afterwards is a context for what is done after a test's own has ended.
func afterwards() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}
