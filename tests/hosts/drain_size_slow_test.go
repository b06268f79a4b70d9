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
	busy := peaks(t, h)
	for i, host := range []string{"A", "B"} {
		t.Logf("peak memory of %s's agent: %d MiB, %d MiB before the drain", host, busy[i]>>10, idle[i]>>10)
		if busy[i] > idle[i]+parallel*perMove {
			t.Errorf("the agent of %s took %d KiB, and had %d KiB: want %d KiB for each of %d moves at most", host, busy[i], idle[i], perMove, parallel)
		}
	}
	runDrain(t, h.c, 0, "undrain", "A", "--max-parallel", fmt.Sprint(parallel))
	for i, n := range peaks(t, h)[:2] {
		t.Logf("there and back: %d MiB", n>>10)
		if n > busy[i]+parallel*perMove/2 {
			t.Errorf("what a hundred moves leave is not given back: %d KiB, after fifty %d KiB", n, busy[i])
		}
	}
}

// perMove bounds what an agent takes for a move of a small workload, in KiB: two
// streams with the windows of their flow control, encoders with batches of 256
// KiB and their compressors.
const perMove = 16 << 10

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
