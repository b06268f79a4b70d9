package hosts

import (
	"strings"
	"testing"
	"time"

	"migrate"
)

// testSet frees moves that would take long, of which one is driven by A's agent,
// from another terminal on A.
func testSet(t *testing.T, h trio) {
	l := startLoad(t, h.a, slow...)
	for _, by := range []string{"this host", "the agent"} {
		driver, src := h.a, l.ref()
		if by == "the agent" {
			driver, src = h.c, "A/"+l.ref()
		}
		m := begin(t, driver, "migrate", "move", src, "B", "--json", "--bandwidth", "500kB")
		id := string(awaitPhase(t, h.a, "pre-copy").ID)
		if out, err := h.a.Output(t.Context(), "migrate", "set", id, "bandwidth=0", "max-rounds=0"); err == nil || !strings.Contains(err.Error(), "max-rounds: must not be") {
			t.Errorf("a wrong setting: %s, %v", out, err)
		}
		if out, err := h.b.Output(t.Context(), "migrate", "set", id, "bandwidth=0"); err == nil || !strings.Contains(err.Error(), "change it there") {
			t.Errorf("set on the target: %s, %v", out, err)
		}
		if out := h.a.Run(t, "migrate", "set", id, "max-rounds=9"); !strings.Contains(out, "488.3 KiB/s") || !strings.Contains(out, " 9 ") {
			t.Errorf("set: %s", out)
		}
		changed := time.Now()
		out := h.a.Run(t, "migrate", "set", id, "bandwidth=0", "downtime-limit=2s", "auto-converge=on", "--json")
		if !strings.Contains(out, `"bandwidth-bytes-per-second":0,"downtime-limit-ms":2000,"max-rounds":9,"timeout-action":"auto","auto-converge":"20,10,95"`) {
			t.Errorf("set: %s", out)
		}
		r, code := m.end(t)
		if code != 0 || r.Status != migrate.StatusCompleted {
			t.Fatalf("driven by %s: exit code %d, %+v", by, code, r.Error)
		}
		t.Logf("driven by %s: over %v after the change", by, time.Since(changed).Round(time.Millisecond))
		if d := time.Since(changed); d > 15*time.Second { // a minute at the old bandwidth
			t.Errorf("driven by %s: took another %v", by, d)
		}
		l.verify(t, h.b)
		if _, err := h.a.Output(t.Context(), "migrate", "set", id, "bandwidth=0"); err == nil || !strings.Contains(err.Error(), "is over") {
			t.Errorf("set afterwards: %v", err)
		}
		if r, code, _ := tryMove(t, h.b, l.ref(), "A"); code != 0 {
			t.Fatalf("back: exit code %d, %+v", code, r.Error)
		}
	}
}
