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
	"sync"
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
	measures bool // is for its figures: nothing runs beside it
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
// source and once the target: for scenarios to which only one of them matters.
func ring(a, b Kernel) bool {
	next := map[string]string{"6.1": "6.12", "6.12": "7.2", "7.2": "6.1"}
	return a == b || next[a.Label()] == b.Label()
}

// once tells of the pair that every commit is tested with, which is enough for
// scenarios to which kernels do not matter.
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

// TestVM runs the scenarios for each pair of kernels, one pair after the other.
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
	rows := &rows{path: cmp.Or(os.Getenv("VM_REPORT"), filepath.Join(root, "build", "vm-report.json"))}
	t.Cleanup(func() { fmt.Print(Table(rows.all)) })
	for _, p := range pairs {
		t.Run(p[0].Label()+"_"+p[1].Label(), func(t *testing.T) { runAll(t, &benches{root: root, kernels: p}, rows) })
	}
}

// runAll runs the scenarios that a pair of kernels is to be tested with, side by
// side as far as -parallel allows.
func runAll(t *testing.T, b *benches, rows *rows) {
	t.Cleanup(b.stop)
	for i, s := range scenarios() {
		if !s.wanted(b.kernels) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			if !s.measures {
				t.Parallel()
			}
			row := Row{Scenario: s.name, Kernels: b.kernels[0].Label() + " to " + b.kernels[1].Label(), Verdict: "pass"}
			start := time.Now()
			t.Cleanup(func() {
				if t.Failed() {
					row.Verdict = "fail"
				}
				row.Seconds = time.Since(start).Round(100 * time.Millisecond).Seconds()
				if err := rows.add(i, row); err != nil {
					t.Error(err)
				}
			})
			s.run(b.stage(t, &row, s.machines))
		})
	}
}

// wanted tells whether a scenario is one of those that were asked for.
func (s scenario) wanted(kernels [2]Kernel) bool {
	return (s.always || !quick()) && (*withLarge || !s.large) && (s.fits == nil || s.fits(kernels[0], kernels[1]))
}

// quick tells whether this is for a commit: fewer scenarios, and shorter ones.
func quick() bool { return *kernelPairs == "" }

// rows are those of scenarios that run side by side.
type rows struct {
	path string // of the report, which a run that is cut short leaves behind, too
	mu   sync.Mutex
	rank []int
	all  []Row // by pair, then by rank
}

// add adds a row of a scenario, after those of lower ranks and of other kernels.
func (r *rows) add(rank int, row Row) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := len(r.all)
	for at > 0 && r.all[at-1].Kernels == row.Kernels && r.rank[at-1] > rank {
		at--
	}
	r.all, r.rank = slices.Insert(r.all, at, row), slices.Insert(r.rank, at, rank)
	return writeRows(r.path, r.all)
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

// afterwards is a context for what is done after a test's own has ended.
func afterwards() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}
