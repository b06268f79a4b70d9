package testload

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"migrate/criu"
)

// TestCRIU dumps and restores a workload with CRIU alone, twice.
func TestCRIU(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("CRIU needs root")
	}
	tool, err := criu.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w := startWorkload(t, "--memory", "32", "--dirty", "2000", "--children", "2", "--threads", "3")
	before := w.ask("verify")
	for range 2 {
		images := t.TempDir()
		w.criu(tool.Path, "dump", "-D", images, "-t", strconv.Itoa(w.pid))
		w.criu(tool.Path, "restore", "-D", images, "-d")
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

// workload is a testload process with its files and address.
type workload struct {
	t       *testing.T
	dir     string
	address string
	pid     int
}

func startWorkload(t *testing.T, args ...string) *workload {
	t.Helper()
	w := &workload{t: t, dir: t.TempDir(), address: freeAddress(t)}
	exe := filepath.Join(w.dir, "testload")
	if out, err := exec.Command("go", "build", "-o", exe, "./cmd/testload").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	cmd := exec.Command(exe, append(args, "--listen", w.address, "--dir", w.dir)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait() // the dump kills it, and the restore needs its PID
	w.pid = cmd.Process.Pid
	t.Cleanup(w.kill)
	w.waitUntil(func() bool { _, err := w.try("status"); return err == nil })
	return w
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// kill kills the session, wherever CRIU has put it, and waits for its end.
func (w *workload) kill() {
	if err := syscall.Kill(-w.pid, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) {
		return
	}
	w.waitUntil(func() bool { _, err := w.try("status"); return err != nil })
}

func (w *workload) try(request string) (s Status, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	line, err := Query(ctx, w.address, request)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(line), &s)
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

func (w *workload) criu(path, action string, args ...string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), path, append([]string{action, "-v1", "-o", "criu.log"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		log, _ := os.ReadFile(filepath.Join(args[1], "criu.log"))
		w.t.Fatalf("criu %s: %v\n%s%s", action, err, out, log)
	}
}
