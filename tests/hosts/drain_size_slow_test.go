//go:build slow

package hosts

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"migrate/internal/testhost"
)

// TestDrainOfFifty empties a host of many small capsules, by its agent: with
// all that it does beside, a drain takes not much longer than its moves.
func TestDrainOfFifty(t *testing.T) {
	runCases(t, []behaviour{{"fifty capsules", testDrainOfFifty}})
}

func testDrainOfFifty(t *testing.T, h trio) {
	cleanCordons(t, h)
	const capsules, parallel = 50, 8
	for i := range capsules {
		h.a.Run(t, "migrate", "run", "--name", fmt.Sprintf("small%d", i), "--", "sleep", "1234")
	}
	idle := peaks(t, h)
	began := time.Now()
	d := runDrain(t, h.c, 0, "drain", "A", "--to", "B", "--max-parallel", fmt.Sprint(parallel))
	whole := time.Since(began)
	took, sum := spans(d.Result)
	t.Logf("%d capsules, %d at a time: %v of moves, %v with the plan; all moves together %v, so one %v", capsules, parallel,
		took, whole, sum, sum/capsules)
	if limit := sum * 3 / 2 / parallel; took > limit {
		t.Errorf("the moves took %v, want at most %v", took, limit)
	}
	atMost(t, d, parallel)
	if d.Result.Moved() != capsules {
		t.Errorf("%d moved", d.Result.Moved())
	}
	bounded := func(when string) {
		t.Helper()
		for i, n := range peaks(t, h) {
			t.Logf("%s: peak memory of the agent of %s: %d MiB, %d MiB when it was idle", when, "ABC"[i:i+1], n>>10, idle[i]>>10)
			if n > idle[i]+parallel*perMove {
				t.Errorf("%s: want %d MiB for each of %d moves at most", when, perMove>>10, parallel)
			}
		}
	}
	bounded("fifty moves")
	runDrain(t, h.c, 0, "undrain", "A", "--max-parallel", fmt.Sprint(parallel))
	bounded("a hundred moves") // that they are over gives back what they had
}

// perMove bounds what an agent takes for a move of a small workload, in KiB.
// Six MiB were seen to be in use at a time: tables, encoders with their batches,
// what waits in streams. The collector lets a heap grow to twice of that, and
// encoders are as many as there are processors.
const perMove = 24 << 10

// peaks returns the most memory that each host's agent ever had, in KiB.
func peaks(t *testing.T, h trio) (list []int) {
	t.Helper()
	for _, host := range []*testhost.Host{h.a, h.b, h.c} {
		out := host.Run(t, "sh", "-c", `sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' /proc/$(pgrep -f "[m]igrate agent")/status`)
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	return list
}
