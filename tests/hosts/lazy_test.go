package hosts

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// TestLazyRestore moves a workload there and back that runs before its memory
// is there: every check of its memory is good, and the store goes when the
// memory is complete.
func TestLazyRestore(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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

// TestFillIsShown stops what fills a workload's memory half way, and then kills
// it. It is there before the freeze; "migrate ps" and "migrate status" tell how far it
// is, and what became of the workload.
func TestFillIsShown(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	if err := b.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := b.StartAgent(pointEnv("fill:half")); err != nil {
		t.Fatal(err)
	}
	l := startLoad(t, a, "--memory", "64", "--fill", "random")
	done := make(chan migrate.Report, 1)
	go func() {
		r, code, stderr := tryMove(t, a, l.ref(), "B", "--restore", "lazy", "--bandwidth", "20MiB")
		if code != 0 {
			t.Errorf("exit code %d\n%s", code, stderr)
		}
		done <- r
	}()
	await(t, "pages are sent", func() bool { p := progress(t, a); return p.Round == 1 && p.Transferred > 1<<20 })
	filler := strings.Fields(b.Run(t, "pgrep", "-of", "[m]igrate fill"))
	if p := progress(t, a); len(filler) != 1 || p.Phase != migrate.PreCopy {
		t.Errorf("in %s the filler is %q", p.Phase, filler)
	}
	id := (<-done).ID

	shown := regexp.MustCompile(`memory \d+% filled in`)
	for _, command := range []string{"ps", "status"} {
		out := b.Run(t, "migrate", command)
		if !shown.MatchString(out) {
			t.Errorf("migrate %s does not tell that memory is still to come:\n%s", command, out)
		}
		var row struct {
			Fill struct {
				Done  uint64 `json:"done-bytes"`
				Total uint64 `json:"total-bytes"`
			} `json:"fill"`
		}
		out = b.Run(t, "migrate", command, "--json")
		if err := json.Unmarshal([]byte(out), &row); err != nil || row.Fill.Total < 64<<20 || row.Fill.Done >= row.Fill.Total {
			t.Errorf("migrate %s --json: %v\n%s", command, err, out)
		}
	}
	b.Run(t, "kill", "-9", filler[0])
	const why = "the filler was killed by signal 9"
	await(t, "migrate ps tells why it was killed", func() bool { return strings.Contains(b.Run(t, "migrate", "ps"), why) })
	await(t, "migrate status tells why it was killed", func() bool {
		return strings.Contains(b.Run(t, "migrate", "status", string(id), "--json"), why)
	})
	if out := b.Run(t, "migrate", "status", string(id)); !strings.Contains(out, "so it was killed") {
		t.Errorf("migrate status %s:\n%s", id, out)
	}
	nothingLeft(t, b)
}

// TestMoveOnWithoutSupervisor kills the supervisor of a workload whose memory is
// not complete, and moves it on: the move waits for what fills it.
func TestMoveOnWithoutSupervisor(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	if err := b.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := b.StartAgent(pointEnv("fill:half")); err != nil {
		t.Fatal(err)
	}
	l := startLoad(t, a, "--memory", "64")
	move(t, a, l.ref(), b, "--restore", "lazy")
	filler := strings.Fields(b.Run(t, "pgrep", "-of", "[m]igrate fill"))[0]
	b.Run(t, "pkill", "-9", "-f", "[m]igrate supervise")
	await(t, "the supervisor is gone", func() bool {
		return b.Run(t, "sh", "-c", `pgrep -f "[m]igrate supervise"; true`) == ""
	})
	cmd := b.Command(t.Context(), "migrate", "move", l.ref(), "A", "--json", "--verify")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the move is under way", func() bool { return strings.Contains(b.Run(t, "migrate", "status"), "prepare") })
	time.Sleep(time.Second)
	if out := b.Run(t, "migrate", "status"); !strings.Contains(out, "prepare") {
		t.Errorf("the move does not wait for the memory:\n%s", out)
	}
	b.Run(t, "kill", "-CONT", filler)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
	}
	l.verify(t, a)
}
