package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// TestTrackers moves a busy tree with each tracker and each way to restore,
// compared page by page while frozen.
func TestTrackers(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	from, to := a, b
	for _, c := range []struct {
		tracker migrate.Tracker
		restore migrate.RestoreMode
	}{
		{migrate.TrackerUffdWP, migrate.RestoreLazy}, {migrate.TrackerUffdWP, migrate.RestoreEager},
		{migrate.TrackerHash, migrate.RestoreLazy}, {migrate.TrackerNone, migrate.RestoreEager},
	} {
		t.Run(fmt.Sprintf("%s-%s", c.tracker, c.restore), func(t *testing.T) {
			l := startLoad(t, from, "--memory", "64", "--dirty", "5000", "--hot", "0.2", "--children", "2", "--threads", "3")
			r := move(t, from, l.ref(), to, "--verify", "--tracker", string(c.tracker), "--restore", string(c.restore))
			l.verify(t, to)
			if r.Tracker != c.tracker || r.Restore != c.restore {
				t.Errorf("moved with %s (%s) and restored %s", r.Tracker, r.TrackerWhy, r.Restore)
			}
			if r.Verified < 64<<20/4096 {
				t.Errorf("%d pages verified, of a workload with at least 64 MiB", r.Verified)
			}
			checkRounds(t, r, c.tracker != migrate.TrackerNone)
			stopLoad(to, l)
			nothingLeft(t, to)
			nothingLeft(t, from)
		})
	}
}

// TestListed demands that CRIU gives no page itself where it need not: the downtime would
// grow with all memory.
func TestListed(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	l := startLoad(t, a, "--memory", "8")
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}, {a, b}} { // what CRIU says is known the third time
		_, code, stderr := tryMove(t, hop[0], l.ref(), hop[1].Name, "-v")
		if code != 0 || strings.Contains(stderr, "CRIU will send every page") {
			t.Errorf("exit code %d\n%s", code, stderr)
		}
	}
	stopLoad(b, l)
}

// checkRounds demands that the counts of every round add up, and that later
// rounds send less than the first.
func checkRounds(t *testing.T, r migrate.Report, precopy bool) {
	t.Helper()
	if precopy && (len(r.Rounds) < 3 || r.Expected == 0) {
		t.Errorf("%d rounds, a downtime of %v expected", len(r.Rounds), time.Duration(r.Expected))
	}
	for i, round := range r.Rounds {
		if round.Dirty()+round.Unchanged != round.Pages || round.Round != i+1 || round.Final != (i == len(r.Rounds)-1) {
			t.Errorf("round %d does not add up: %+v", i+1, round)
		}
		if i > 0 && round.Sent > r.Rounds[0].Sent/2 {
			t.Errorf("round %d sent %d pages, the first %d", i+1, round.Sent, r.Rounds[0].Sent)
		}
	}
}

// TestVerifyCatches has a tracker lose one page that changed. The move must end
// with that page's name, and the workload run on.
func TestVerifyCatches(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	lying := filepath.Join(t.TempDir(), "migrate")
	build := exec.Command("go", "build", "-tags", "lyingtracker", "-o", lying, "migrate/cmd/migrate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l := startLoad(t, a, "--memory", "16", "--dirty", "3000")
	for _, tracker := range []string{"uffd-wp", "hash"} {
		cmd := a.Command(t.Context(), lying, "move", l.ref(), "B", "--json", "--verify", "--tracker", tracker)
		r, code, stderr := finish(t, cmd)
		if code != 4 || r.Error == nil || !strings.Contains(r.Error.What+r.Error.Cause, "page 0x") || !strings.Contains(stderr, "page 0x") {
			t.Errorf("%s: exit code %d, error %+v\n%s", tracker, code, r.Error, stderr)
		}
		l.verify(t, a)
	}
	if where := copies(l, a, b); len(where) != 1 {
		t.Errorf("runs on %v", where)
	}
}

// TestBrokenLink cuts the link in a round for longer than both sides wait for
// a packet. The move takes up where it was.
func TestBrokenLink(t *testing.T) {
	a, b := pair(t)
	l := startLoad(t, a, "--memory", "64", "--dirty", "500")
	type ended struct {
		r      migrate.Report
		code   int
		stderr string
	}
	done := make(chan ended, 1)
	go func() {
		r, code, stderr := tryMove(t, a, l.ref(), "B", "--verify", "--bandwidth", "4MiB")
		done <- ended{r, code, stderr}
	}()
	await(t, "pages are sent", func() bool { p := progress(t, a); return p.Transferred > 4<<20 })
	if err := a.Cut(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(8 * time.Second)
	l.verify(t, a)
	if err := a.Join(); err != nil {
		t.Fatal(err)
	}
	e := <-done
	if e.code != 0 || e.r.Redials == 0 {
		t.Fatalf("exit code %d, %d redials, error %+v\n%s", e.code, e.r.Redials, e.r.Error, e.stderr)
	}
	l.verify(t, b)
	if e.r.Transferred > 80<<20 {
		t.Errorf("%d bytes sent for 64 MiB: what the target had was sent again", e.r.Transferred)
	}
}

// progress is what "migrate status" says of the only move on a host.
func progress(t *testing.T, h *testhost.Host) (p migrate.Progress) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, _ := h.Output(ctx, "migrate", "status", "--json") // none yet, or over
	for line := range strings.Lines(out) {
		var s struct {
			Progress migrate.Progress `json:"progress"`
		}
		if json.Unmarshal([]byte(line), &s) == nil && s.Progress.Round > 0 {
			p = s.Progress
		}
	}
	return p
}

// outruns starts a writer that no link capped as in [slowLink] keeps up with.
func outruns(t *testing.T, h *testhost.Host) load {
	return startLoad(t, h, "--memory", "24", "--dirty", "6000", "--hot", "1")
}

var slowLink = []string{"--bandwidth", "8MiB", "--compress", "none", "--verify"}

// TestAutoConverge moves a writer that outruns the link by slowing it, and
// demands that it is not slow any more afterwards.
func TestAutoConverge(t *testing.T) {
	a, b := pair(t)
	l := outruns(t, a)
	limits := cpuLimits(t, a)
	r := move(t, a, l.ref(), b, append(slowLink, "--auto-converge", "--downtime-limit", "1s", "--timeout", "2m")...)
	l.verify(t, b)
	if r.Throttle == 0 {
		t.Errorf("never slowed: %+v", r.Rounds)
	}
	if now := cpuLimits(t, a); now != limits {
		t.Errorf("processor limits on A are %q, were %q", now, limits)
	}
}

// TestTimeoutCancels gives a writer that outruns the link little time. Nothing
// of the move must be left, on either host.
func TestTimeoutCancels(t *testing.T) {
	a, b := pair(t)
	l := outruns(t, a)
	limits := cpuLimits(t, a)
	r, code, stderr := tryMove(t, a, l.ref(), "B", append(slowLink, "--auto-converge", "--downtime-limit", "1ms", "--timeout", "12s", "--timeout-action", "cancel")...)
	if code != 4 || r.Owner != migrate.OwnerSource {
		t.Fatalf("exit code %d, report %+v\n%s", code, r, stderr)
	}
	l.verify(t, a)
	if now := cpuLimits(t, a); now != limits {
		t.Errorf("processor limits on A are %q, were %q", now, limits)
	}
	if s := a.Run(t, "sh", "-c", fmt.Sprintf("grep -w uw /proc/%d/smaps || true", l.pid)); s != "" {
		t.Errorf("the workload is tracked still:\n%s", s)
	}
	if where := copies(l, a, b); len(where) != 1 || where[0] != "A" {
		t.Errorf("runs on %v", where)
	}
	await(t, "the store on B is empty", func() bool { return b.Run(t, "sh", "-c", "ls /run/migrate/store") == "" })
}

// TestTimeoutSuspends is the same, but the move goes on and takes its downtime.
func TestTimeoutSuspends(t *testing.T) {
	a, b := pair(t)
	l := outruns(t, a)
	r := move(t, a, l.ref(), b, append(slowLink, "--downtime-limit", "1ms", "--timeout", "4s", "--timeout-action", "suspend")...)
	l.verify(t, b)
	if time.Duration(r.TotalTime) > 40*time.Second {
		t.Errorf("took %v", time.Duration(r.TotalTime))
	}
}

// cpuLimits tells every processor limit and group of ours on a host.
func cpuLimits(t *testing.T, h *testhost.Host) string {
	return h.Run(t, "sh", "-c", `for f in $(find /sys/fs/cgroup -name cpu.max -o -name cpu.cfs_quota_us 2>/dev/null | sort); do echo "$f $(cat $f)"; done | grep -v " -1$" | grep -v " max "; find /sys/fs/cgroup -type d -name "migrate-*" 2>/dev/null; true`)
}

// TestSet raises the cap of a move that would take minutes.
func TestSet(t *testing.T) {
	a, b := pair(t)
	l := startLoad(t, a, "--memory", "48", "--dirty", "100")
	done := make(chan migrate.Report, 1)
	go func() {
		r, code, stderr := tryMove(t, a, l.ref(), "B", "--bandwidth", "256KiB", "--compress", "none")
		if code != 0 {
			t.Errorf("exit code %d\n%s", code, stderr)
		}
		done <- r
	}()
	await(t, "pages are sent", func() bool { return progress(t, a).Transferred > 100<<10 })
	id := strings.Fields(a.Run(t, "sh", "-c", "ls /run/migrate/m"))[0]
	id = strings.TrimSuffix(id, ".sock")
	if out, err := a.Output(t.Context(), "migrate", "set", id, "bandwidth=nonsense"); err == nil {
		t.Errorf("took nonsense: %s", out)
	}
	a.Run(t, "migrate", "set", id, "bandwidth=100MiB", "downtime-limit=500ms")
	r := <-done
	if time.Duration(r.TotalTime) > 30*time.Second {
		t.Errorf("took %v", time.Duration(r.TotalTime))
	}
	l.verify(t, b)
}

// TestSparse moves a program with a large reservation, which must cost nothing.
func TestSparse(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	script := `
import mmap, time, sys
m = mmap.mmap(-1, 64 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
m[0] = 1; m[40 << 30] = 2
n = 0
while True:
    n += 1; m[n * 4096 % (8 << 20)] = n % 256; time.sleep(0.001)
    if m[40 << 30] != 2: sys.exit(3)
`
	pid, err := a.Start(t.Context(), "/usr/bin/python3", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	r := move(t, a, "process:"+strconv.Itoa(pid), b, "--verify", "--tracker", "uffd-wp")
	if r.MemoryBytes > 100<<20 || time.Duration(r.TotalTime) > 20*time.Second {
		t.Errorf("%d bytes of memory, %v", r.MemoryBytes, time.Duration(r.TotalTime))
	}
	time.Sleep(200 * time.Millisecond)
	b.Run(t, "kill", strconv.Itoa(pid))
}

// TestPriority moves a program of low priority, which must not come back with
// that of what moved it.
func TestPriority(t *testing.T) {
	a, b := pair(t)
	l := load{port: 7001}
	pid, err := a.Start(t.Context(), "nice", "-n", "5", "testload", "--listen", "0.0.0.0:7001", "--dir", t.TempDir(), "--memory", "40", "--children", "1", "--threads", "2")
	if err != nil {
		t.Fatal(err)
	}
	l.pid = pid
	l.awaitReady(t, a)
	move(t, a, l.ref(), b, "--verify")
	l.verify(t, b)
	if out := b.Run(t, "sh", "-c", "ps -L -C testload -o ni= | sort | uniq"); strings.TrimSpace(out) != "5" {
		t.Errorf("threads on B have the nice values %q, want 5", strings.Fields(out))
	}
	b.Run(t, "pkill", "-9", "-x", "testload")
}
