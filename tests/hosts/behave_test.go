package hosts

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// trio is the three hosts that the cases of one test share.
type trio struct{ a, b, c *testhost.Host }

// runCases runs cases on one set of hosts, one after the other: each leaves the
// hosts empty.
func runCases(t *testing.T, cases []behaviour) {
	t.Helper()
	set := testhost.Up(t, testhost.Options{})
	h := trio{set.Host("A"), set.Host("B"), set.Host("C")}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			h.spreadPIDs(t, i)
			t.Cleanup(func() {
				h.clear(t)
				t.Logf("took %v", time.Since(start).Round(time.Millisecond))
			})
			c.run(t, h)
		})
	}
}

// spreadPIDs has each host give out numbers from a range of its own: what
// arrived in earlier cases has pushed the counters of all to the same place, where
// a thread of one host's agent is in the way of another's process.
func (h trio) spreadPIDs(t *testing.T, number int) {
	t.Helper()
	for i, host := range []*testhost.Host{h.a, h.b, h.c} {
		host.Run(t, "sh", "-c", fmt.Sprintf("echo %d >/proc/sys/kernel/ns_last_pid", 300+number*450+i*10800))
	}
}

type behaviour struct {
	name string
	run  func(t *testing.T, h trio)
}

// clear ends what a case has started, on all hosts, and demands that nothing is
// left then.
func (h trio) clear(t *testing.T) {
	for _, host := range []*testhost.Host{h.a, h.b, h.c} {
		pkill(host, "KILL", helperWord+"|testload --listen|migrate move|sleep 1234")
	}
	for _, host := range []*testhost.Host{h.a, h.b, h.c} {
		if !t.Failed() {
			await(t, "all is gone from "+host.Name, func() bool { return leftOn(host) == "" })
		}
	}
}

// leftOn lists what there is of workloads on a host.
func leftOn(h *testhost.Host) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := h.Output(ctx, "sh", "-c", `pgrep -x "testload|criu"; pgrep -fa "[m]igrate supervise|`+helperWord[:6]+`[-]";
		find /run/migrate/store /run/migrate/images -mindepth 1 -maxdepth 1 2>/dev/null;
		find /sys/fs/cgroup -type d -path "*migrate/*" ! -name _supervisors 2>/dev/null;
		nft list tables 2>/dev/null; true`)
	return strings.TrimSpace(fmt.Sprint(out, errText(err)))
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestBehaviour tests what users expect of processes that move.
func TestBehaviour(t *testing.T) {
	t.Parallel()
	runCases(t, []behaviour{
		{"pipes of a process", testPipes},
		{"input that is not read yet", testUnreadInput},
		{"terminal", testTerminal},
		{"shell job", testShellJob},
		{"sessions and groups", testSessions},
		{"many things open", testThings},
		{"always forking", testForking},
		{"in vfork", testVfork},
		{"how it ended", testExit},
		{"around three hosts", testAround},
	})
}

// TestBehaviourOfCapsules does so with capsules, and with what a host knows.
func TestBehaviourOfCapsules(t *testing.T) {
	t.Parallel()
	runCases(t, []behaviour{
		{"logs of a capsule", testCapsuleLogs},
		{"kinds of capsules", testCapsules},
		{"exec", testExec},
		{"cgroup modes", testCgroupModes},
		{"cgroup modes of a process", testProcessCgroupModes},
		{"check and history", testCheck},
	})
}

// awaitFile returns the content of a file once it has one.
func awaitFile(t *testing.T, path string) string {
	t.Helper()
	var b []byte
	await(t, path+" is written", func() bool {
		b, _ = os.ReadFile(path)
		return len(b) > 0
	})
	return string(b)
}

func awaitPID(t *testing.T, path string) int {
	t.Helper()
	pid, err := strconv.Atoi(awaitFile(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func quoted(argv []string) string { return "'" + strings.Join(argv, "' '") + "'" }

// numbersOf returns the N of each "line N" in text, which may hold notes of what
// came in, too.
func numbersOf(t *testing.T, where, text string) (list []int) {
	t.Helper()
	for line := range strings.Lines(text) {
		var n int
		line = strings.TrimRight(line, "\r\n")
		if _, err := fmt.Sscanf(line, "line %d", &n); err == nil && line == fmt.Sprintf("line %d", n) {
			list = append(list, n)
		} else if !strings.HasPrefix(line, "input ") {
			t.Errorf("%s: a line is %q", where, line)
		}
	}
	return list
}

// checkLines demands that the texts hold together each line from the first on
// once.
func checkLines(t *testing.T, texts map[string]string) {
	t.Helper()
	var all []int
	for where, text := range texts {
		list := numbersOf(t, where, text)
		if !slices.IsSorted(list) {
			t.Errorf("%s: the lines are out of order", where)
		}
		if len(list) > 0 {
			t.Logf("%s: lines %d to %d", where, list[0], list[len(list)-1])
		}
		all = append(all, list...)
	}
	slices.Sort(all)
	for i, n := range all {
		if n != i+1 {
			t.Fatalf("line %d comes where line %d is due", n, i+1)
		}
	}
}

// grows waits until a workload has written some more lines on a host.
func grows(t *testing.T, h *testhost.Host, name string) {
	t.Helper()
	count := func() int { return strings.Count(h.Run(t, "migrate", "logs", name), "\nline ") }
	before := count()
	await(t, name+" writes on "+h.Name, func() bool { return count() > before+20 })
}

// testPipes moves a process whose streams are pipes to others on its host, there
// and back and there again. On the first host what reads them goes on to run.
func testPipes(t *testing.T, h trio) {
	dir := t.TempDir()
	out, pidFile := filepath.Join(dir, "out"), filepath.Join(dir, "pid")
	script := fmt.Sprintf("sleep 1234 | %s 2>&1 | cat >%s", quoted(helper("lines", pidFile, "2ms")), out)
	if _, err := h.a.Start(t.Context(), "sh", "-c", script); err != nil {
		t.Fatal(err)
	}
	pid := awaitPID(t, pidFile)
	ref, name := fmt.Sprintf("process:%d", pid), fmt.Sprintf("process-%d", pid)
	await(t, "lines", func() bool { b, _ := os.ReadFile(out); return bytes.Count(b, []byte("\n")) > 20 })
	for _, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.a}, {h.a, h.b}} {
		move(t, hop[0], ref, hop[1])
		grows(t, hop[1], name)
	}
	h.b.Run(t, "sh", "-c", fmt.Sprintf("(echo hello; sleep 0.5) | timeout -s INT 2 migrate attach %s >/dev/null || true", name))
	await(t, "what was typed arrives", func() bool { return strings.Contains(h.b.Run(t, "migrate", "logs", name), `input "hello\n"`) })
	texts := map[string]string{"A at first": awaitFile(t, out), "A": h.a.Run(t, "migrate", "logs", name), "B": h.b.Run(t, "migrate", "logs", name)}
	checkLines(t, texts)
	for where, text := range texts {
		if strings.Contains(text, "input ended") {
			t.Errorf("%s: standard input has ended", where)
		}
	}
	if b, err := os.ReadFile(pidFile + ".error"); err == nil {
		t.Errorf("writing failed: %s", b)
	}
	h.b.Run(t, "migrate", "stop", name)
}

// testUnreadInput moves a process twice that has not read its input yet, which
// is longer than a pipe of the usual size.
func testUnreadInput(t *testing.T, h trio) {
	dir := t.TempDir()
	const read = `echo $$ >pid; while ! [ -e go ]; do sleep 0.02; done; head -c %d | md5sum; exec sleep 1234`
	script := fmt.Sprintf(`cd %s; %s | sh -c '%s' 2>&1 | cat >out`, dir, quoted(helper("feed")), fmt.Sprintf(read, feedBytes))
	if _, err := h.a.Start(t.Context(), "sh", "-c", script); err != nil {
		t.Fatal(err)
	}
	pid := 0
	if _, err := fmt.Sscan(awaitFile(t, filepath.Join(dir, "pid")), &pid); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // for the input to be written
	ref, name := fmt.Sprintf("process:%d", pid), fmt.Sprintf("process-%d", pid)
	move(t, h.a, ref, h.b)
	move(t, h.b, ref, h.c)
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x", md5.Sum(pattern(feedBytes)))
	await(t, "the input is read", func() bool { return h.c.Run(t, "migrate", "logs", name) != "" })
	if out := h.c.Run(t, "migrate", "logs", name); !strings.HasPrefix(out, want) {
		t.Errorf("the sum of what it read is %q, want %s", out, want)
	}
	h.c.Run(t, "migrate", "stop", "--timeout", "0s", name)
}

// testCapsuleLogs does the same with a capsule, and follows its log.
func testCapsuleLogs(t *testing.T, h trio) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	h.a.Run(t, append([]string{"migrate", "run", "--name", "writer", "--stdin", "--"}, helper("lines", pidFile, "2ms")...)...)
	awaitPID(t, pidFile)
	grows(t, h.a, "writer")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var followed bytes.Buffer
	follow := h.a.Command(ctx, "migrate", "logs", "-f", "writer")
	follow.Stdout = &followed
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	move(t, h.a, "capsule:writer", h.b)
	if err := follow.Wait(); err != nil {
		t.Errorf("logs -f of a workload that moved away: %v", err)
	}
	first := h.a.Run(t, "migrate", "logs", "writer")
	if got := strings.TrimRight(followed.String(), "\n"); got != first {
		t.Errorf("logs -f printed %d bytes, the log has %d", len(got), len(first))
	}
	grows(t, h.b, "writer")
	move(t, h.b, "capsule:writer", h.a)
	grows(t, h.a, "writer")
	checkLines(t, map[string]string{"A": h.a.Run(t, "migrate", "logs", "writer"), "B": h.b.Run(t, "migrate", "logs", "writer")})
	h.a.Run(t, "migrate", "stop", "--rm", "writer")
}

// typed attaches to a workload's terminal, types a line and returns what was
// shown.
func typed(t *testing.T, h *testhost.Host, name, line string) string {
	t.Helper()
	return h.Run(t, "sh", "-c", fmt.Sprintf("(sleep 0.2; echo %s; sleep 0.5) | timeout -s INT 1.3 migrate attach %s || true", line, name))
}

// testTerminal moves a process on a terminal whose other end stays behind.
func testTerminal(t *testing.T, h trio) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	if _, err := h.a.Start(t.Context(), helper("pty", helper("lines", pidFile, "20ms")...)...); err != nil {
		t.Fatal(err)
	}
	pid := awaitPID(t, pidFile)
	for i, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.a}} {
		move(t, hop[0], fmt.Sprintf("process:%d", pid), hop[1])
		word := fmt.Sprintf("hop%d", i)
		if out := typed(t, hop[1], fmt.Sprintf("process-%d", pid), word); !strings.Contains(out, `input "`+word) || !strings.Contains(out, "line ") {
			t.Errorf("hop %d: attach shows %q", i+1, out)
		}
	}
	h.a.Run(t, "migrate", "stop", fmt.Sprintf("process-%d", pid))
}

// testShellJob moves a job of a shell: its session's leader and its terminal are
// outside of the tree.
func testShellJob(t *testing.T, h trio) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	shell := "set -m; " + quoted(helper("lines", pidFile, "20ms")) + "; echo the shell goes on"
	if _, err := h.a.Start(t.Context(), helper("pty", "/bin/sh", "-c", shell)...); err != nil {
		t.Fatal(err)
	}
	pid := awaitPID(t, pidFile)
	for i, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.a}} {
		move(t, hop[0], fmt.Sprintf("process:%d", pid), hop[1])
		word := fmt.Sprintf("hop%d", i)
		if out := typed(t, hop[1], fmt.Sprintf("process-%d", pid), word); !strings.Contains(out, `input "`+word) {
			t.Errorf("hop %d: attach shows %q", i+1, out)
		}
	}
	h.a.Run(t, "migrate", "stop", fmt.Sprintf("process-%d", pid))
}

// treeOf lists the helpers of a host with parent, group and session.
func treeOf(t *testing.T, h *testhost.Host, root int) (list []string) {
	t.Helper()
	out := h.Run(t, "ps", "-eo", "pid=,ppid=,pgid=,sid=,args=")
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) > 6 && f[5] == helperWord && f[6] == "tree" || len(f) == 6 && f[5] == "1234" {
			if f[0] == strconv.Itoa(root) {
				f[1] = "parent"
			}
			list = append(list, strings.Join(f[:4], " "))
		}
	}
	slices.Sort(list)
	return list
}

// testSessions moves a tree of 52 processes in several sessions and groups.
func testSessions(t *testing.T, h trio) {
	const total = 1 + 3 + 3*4 + 3*4*3
	root, err := h.a.Start(t.Context(), helper("tree", "3", "4", "3")...)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the tree has grown", func() bool { return len(treeOf(t, h.a, root)) == total })
	want := treeOf(t, h.a, root)
	for _, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.a}} {
		r := move(t, hop[0], fmt.Sprintf("process:%d", root), hop[1])
		t.Logf("%d processes: downtime %v, total %v", total, r.Downtime, r.TotalTime)
		// Command lines are memory, some of which may still be filled in.
		got := treeOf(t, hop[1], root)
		for end := time.Now().Add(5 * time.Second); !slices.Equal(got, want) && time.Now().Before(end); got = treeOf(t, hop[1], root) {
			time.Sleep(50 * time.Millisecond)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the tree on %s is %q, want %q", hop[1].Name, got, want)
		}
	}
	h.a.Run(t, "migrate", "stop", "--timeout", "0s", fmt.Sprintf("process-%d", root))
}

// asker puts questions to a helper of the kind "things".
type asker struct {
	dir string
	n   int
}

func (a *asker) ask(t *testing.T) (s seen) {
	t.Helper()
	a.n++
	if err := os.WriteFile(filepath.Join(a.dir, fmt.Sprintf("ask.%d", a.n)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(awaitFile(t, filepath.Join(a.dir, fmt.Sprintf("answer.%d", a.n)))), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Wrong) > 0 {
		t.Fatalf("question %d: wrong: %q", a.n, s.Wrong)
	}
	return s
}

// testThings moves a process that has one of everything.
func testThings(t *testing.T, h trio) {
	const locked = "/run/locked" // each host's own: both copies hold the locks for a moment
	for _, host := range []*testhost.Host{h.a, h.b} {
		host.Run(t, "touch", locked)
	}
	a := &asker{dir: t.TempDir()}
	pid, err := h.a.Start(t.Context(), helper("things", a.dir, locked)...)
	if err != nil {
		t.Fatal(err)
	}
	before := a.ask(t)
	for _, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.a}, {h.a, h.b}} {
		r := move(t, hop[0], fmt.Sprintf("process:%d", pid), hop[1], "--file-locks")
		t.Logf("downtime %v, total %v, %d bytes sent", r.Downtime, r.TotalTime, r.Transferred)
		if r.TotalTime > migrate.Millis(40*time.Second) || r.MemoryBytes > 1<<30 { // 64 GiB would take minutes
			t.Errorf("a reservation of 64 GiB counts as memory: %+v", r)
		}
		now := a.ask(t)
		await(t, "all timers go on", func() bool {
			later := a.ask(t)
			return later.Ticks > now.Ticks+20 && later.Alarms > now.Alarms+5 && later.Posix > now.Posix+5 && later.Absolute > now.Absolute
		})
		if now.Threads != before.Threads || now.Threads != 200 {
			t.Errorf("%d threads of %d are the same", now.Threads, before.Threads)
		}
		if _, err := hop[1].Output(t.Context(), "flock", "-n", locked, "true"); err == nil {
			t.Errorf("the file lock is not held on %s", hop[1].Name)
		}
	}
	h.b.Run(t, "migrate", "stop", "--timeout", "0s", fmt.Sprintf("process-%d", pid))
}

// testForking moves a shell that starts one program after the other: a freeze
// may meet it in vfork(2).
func testForking(t *testing.T, h trio) {
	h.a.Run(t, "migrate", "run", "--name", "forking", "--", "sh", "-c", "while :; do /bin/true; done")
	for _, hop := range [][2]*testhost.Host{{h.a, h.b}, {h.b, h.a}, {h.a, h.b}, {h.b, h.a}, {h.a, h.b}, {h.b, h.a}} {
		r := move(t, hop[0], "capsule:forking", hop[1])
		t.Logf("downtime %v", r.Downtime)
	}
	h.a.Run(t, "migrate", "stop", "--rm", "forking")
}

// testVfork freezes a process that waits in vfork for its child, which waits for
// somebody to open a named pipe. That begins only once preflight has passed.
func testVfork(t *testing.T, h trio) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	h.a.Run(t, append([]string{"migrate", "run", "--name", "vfork", "--"}, helper("vfork", filepath.Join(dir, "go"), fifo)...)...)
	m := begin(t, h.a, "env", "MIGRATE_FAILPOINT=source:pre-copy", "MIGRATE_FAILPOINT_LOG="+pointLog, "migrate", "move", "capsule:vfork", "B", "--json", "--freeze-timeout", "20s")
	awaitFile(t, fmt.Sprintf("/proc/%d/root%s", h.a.InitPID(), pointLog))
	h.a.Run(t, "rm", pointLog)
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the process is in vfork", func() bool {
		_, err := h.a.Output(t.Context(), "sh", "-c", "ps -eo state,args | grep -q '^D .*"+helperWord+" vfork'")
		return err == nil
	})
	pkill(h.a, "CONT", "migrate move")
	time.Sleep(500 * time.Millisecond)
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, code := m.end(t)
	if code != 0 || r.Downtime > migrate.Millis(2*time.Second) {
		t.Fatalf("exit code %d, %+v, %s", code, r, &m.stderr)
	}
	h.b.Run(t, "migrate", "stop", "--rm", "--timeout", "0s", "vfork")
}
