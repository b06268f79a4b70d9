package hosts

import (
	"fmt"
	"strings"
	"testing"

	"migrate"
	"migrate/internal/testhost"
)

// TestLazyRestore moves a workload there and back that runs before its memory
// is there: every check of its memory is good, and the store goes when the
// memory is complete.
func TestLazyRestore(t *testing.T) {
	for _, tracker := range []string{"hash", "none"} {
		t.Run(tracker, func(t *testing.T) {
			a, b := pair(t)
			l := startLoad(t, a, "--memory", "96", "--dirty", "2000", "--children", "1")
			for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
				r := move(t, hop[0], l.ref(), hop[1], "--restore", "lazy", "--tracker", tracker, "--verify")
				if r.Restore != migrate.RestoreLazy || r.Verified == 0 {
					t.Errorf("the report says restore %q, %d pages verified", r.Restore, r.Verified)
				}
				l.verify(t, hop[1])
				await(t, "the store is gone", func() bool {
					return strings.TrimSpace(hop[1].Run(t, "find", "/run/migrate/store", "-mindepth", "1")) == ""
				})
				l.verify(t, hop[1])
				nothingLeft(t, hop[0])
			}
			out := a.Run(t, "sh", "-c", "head -qn1 /var/lib/migrate/journal/*.target.json")
			if want := `"phase":"done"`; strings.Count(out, want) != 1 || strings.Contains(out, "reason") {
				t.Errorf("the journal of A says:\n%s", out)
			}
		})
	}
}

// TestAgentStopsWhileMemoryFills kills the target's agent right after the
// workload runs: the next one waits for its memory, and then drops the store.
func TestAgentStopsWhileMemoryFills(t *testing.T) {
	a, b := pair(t)
	l := startLoad(t, a, "--memory", "256")
	move(t, a, l.ref(), b, "--restore", "lazy")
	if err := b.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := b.StartAgent(nil); err != nil {
		t.Fatal(err)
	}
	l.verify(t, b)
	await(t, "the store is gone", func() bool {
		return strings.TrimSpace(b.Run(t, "find", "/run/migrate/store", "-mindepth", "1")) == ""
	})
	await(t, "the journal says that it is over", func() bool {
		return strings.Contains(fmt.Sprint(records(b)), "done")
	})
}
