package testhost

import (
	"testing"

	"migrate"
)

func TestReport(t *testing.T) {
	const lines = `{"type":"phase","phase":"connect"}
{"type":"result","id":"1","status":"completed"}
VmHWM:	    1234 kB
`
	if r, err := Report(lines); err != nil || r.ID != "1" || r.Status != migrate.StatusCompleted {
		t.Errorf("Report() = %+v, %v", r, err)
	}
	for _, out := range []string{"", "\n", `{"type":"phase"}`} {
		if r, err := Report(out); err == nil {
			t.Errorf("Report(%q) = %+v, want an error", out, r)
		}
	}
}
