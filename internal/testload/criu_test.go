package testload

import (
	"context"
	"strconv"
	"testing"
	"time"

	"migrate/criu"
	"migrate/internal/testhost"
)

// TestCRIU moves a workload from A to B and back with CRIU alone.
func TestCRIU(t *testing.T) {
	hosts := testhost.Up(t, testhost.Options{Names: []string{"A", "B"}, NoAgent: true})
	tool, err := criu.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, hosts.Host("A"), "--memory", "32", "--dirty", "2000", "--children", "2", "--threads", "3")
	before := w.ask("verify")
	for _, to := range []string{"B", "A"} {
		w.move(tool.Path, hosts.Host(to))
		after := w.ask("verify")
		checkMoved(t, before, after)
		before = w.waitProgress(after)
	}
	w.ask("reset-gap")
	if s := w.ask("status"); s.Gap > s.LargestGap || s.LargestGap < 1 {
		t.Errorf("gap %g ms after a reset, largest %g ms", s.Gap, s.LargestGap)
	}
	w.ask("exit 7")
}

func checkMoved(t *testing.T, before, after Status) {
	t.Helper()
	if !after.OK {
		t.Errorf("errors: %q", after.Errors)
	}
	if after.PID != before.PID || after.SID != before.SID || after.PGID != before.PGID {
		t.Errorf("IDs: got %d %d %d, want %d %d %d", after.PID, after.SID, after.PGID, before.PID, before.SID, before.PGID)
	}
	if after.Mono <= before.Mono || after.Boot <= before.Boot {
		t.Errorf("clocks: got %d %d, want more than %d %d", after.Mono, after.Boot, before.Mono, before.Boot)
	}
	if after.LargestGapMono >= after.LargestGap {
		t.Errorf("CRIU's outage of %g ms shows as %g ms in CLOCK_MONOTONIC", after.LargestGap, after.LargestGapMono)
	}
}

const address = "127.0.0.1:7001"

// workload is a testload process and where it is.
type workload struct {
	t    *testing.T
	host *testhost.Host
	pid  int
}

func start(t *testing.T, h *testhost.Host, args ...string) *workload {
	t.Helper()
	args = append([]string{"testload", "--listen", address, "--dir", t.TempDir()}, args...)
	pid, err := h.Start(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	w := &workload{t, h, pid}
	w.waitUntil(func() bool { _, err := w.try("status"); return err == nil })
	return w
}

func (w *workload) move(criu string, to *testhost.Host) {
	w.t.Helper()
	images := w.t.TempDir()
	w.host.Run(w.t, criu, "dump", "-v1", "-D", images, "-t", strconv.Itoa(w.pid))
	to.Run(w.t, criu, "restore", "-v1", "-D", images, "-d")
	w.host = to
}

func (w *workload) try(request string) (Status, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	return Ask(ctx, w.host, address, request)
}

func (w *workload) ask(request string) Status {
	w.t.Helper()
	s, err := w.try(request)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// waitProgress waits until every part has done something since s.
func (w *workload) waitProgress(s Status) (now Status) {
	w.t.Helper()
	w.waitUntil(func() bool {
		now = w.ask("status")
		return now.Ticks > s.Ticks && now.TimerTicks > s.TimerTicks && now.GoTicks > s.GoTicks && now.Appended > s.Appended &&
			now.PipeSeq > s.PipeSeq && now.PagesDirtied > s.PagesDirtied && now.PagesChecked > s.PagesChecked
	})
	return now
}

func (w *workload) waitUntil(done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			w.t.Fatal("nothing happens any more")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
