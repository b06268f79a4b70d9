package containers

import (
	"encoding/json"
	"strings"
	"testing"

	"migrate"
	"migrate/internal/testhost"
)

// listed is a line of "migrate ps --all --json".
type listed struct {
	Ref      string            `json:"ref"`
	PID      int               `json:"pid"`
	Memory   uint64            `json:"memory-bytes"`
	Labels   map[string]string `json:"labels"`
	Blockers []migrate.Finding `json:"blockers"`
}

// ps returns the line of the container; the zero value if there is none.
func (c container) ps(t *testing.T, h *testhost.Host) listed {
	t.Helper()
	for line := range strings.Lines(h.Run(t, "migrate", "ps", "--all", "--json")) {
		var l listed
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if l.Ref == c.ref() && l.PID != 0 {
			return l
		}
	}
	return listed{}
}

// TestDrain has containers that were never moved listed, with what is in their
// way, and moved with all others of the host, and back.
func TestDrain(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	web := load(t, a, "runc", "web", nil, "--memory", "24")
	stuck := start(t, a, "crun", "stuck", nil, "sleep", "1000")
	a.Run(t, "crun", "pause", "stuck")
	a.Run(t, "migrate", "label", web.ref(), "app=web")
	if l := web.ps(t, a); l.Memory < 24<<20 || len(l.Blockers) != 0 || l.Labels["app"] != "web" {
		t.Errorf("migrate ps --all: %+v", l)
	}
	if l := stuck.ps(t, a); l.PID == 0 || len(l.Blockers) != 1 || l.Blockers[0].Code != "paused" {
		t.Errorf("migrate ps --all of what cannot move: %+v", l)
	}
	if out := a.Run(t, "migrate", "ps", "--all"); !strings.Contains(out, "running (cannot be moved: paused)") {
		t.Errorf("migrate ps --all:\n%s", out)
	}
	if out := a.Run(t, "migrate", "ps"); strings.Contains(out, "web") {
		t.Errorf("migrate ps lists what migrate has nothing to do with:\n%s", out)
	}
	a.Run(t, "migrate", "drain", "--to", b.Name, "--kind", "runc")
	web.gone(t, a)
	web.verify(t, b)
	if l := web.ps(t, b); l.Labels["app"] != "web" {
		t.Errorf("on the target: %+v", l)
	}
	if status, _ := stuck.state(a); status != "paused" {
		t.Errorf("what was not to be drained is %q", status)
	}
	a.Run(t, "migrate", "undrain")
	web.verify(t, a)
	web.remove(a)
	a.Run(t, "crun", "resume", "stuck")
	stuck.remove(a)
}
