package hosts

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// nextPort gives every extra agent and every helper a number of its own.
var nextPort atomic.Int32

func init() { nextPort.Store(7500) }

// TestBadInput gives the program everything that it must refuse: each time one
// clear error, the right exit status, and a workload that runs on.
func TestBadInput(t *testing.T) {
	t.Parallel()
	set := testhost.Up(t, testhost.Options{Names: []string{"A", "B"}})
	in := &inputs{a: set.Host("A"), b: set.Host("B")}
	in.load = startLoad(t, in.a, "--memory", "32")
	agent := in.b.AgentPID()
	t.Run("refused", func(t *testing.T) {
		for _, c := range refusals {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				w := c.make(t, in)
				c.want.check(t, in.try(t, w))
				in.runsOn(t, w)
			})
		}
		for name := range hostilities {
			t.Run("hostile/"+name, func(t *testing.T) {
				t.Parallel()
				in.hostile(t, name)
			})
		}
	})
	if s := in.load.verify(t, in.a); s.LargestGap > 1000 {
		t.Errorf("the workload stood still for %v ms though nothing was to be touched", s.LargestGap)
	}
	nothingLeft(t, in.b)
	t.Run("rolled back", func(t *testing.T) { testRolledBack(t, in) })
	t.Run("no time namespaces", func(t *testing.T) { testNoTimeNamespaces(t, in) })
	t.Run("connection closed", func(t *testing.T) { testConnectionClosed(t, in) })
	if now := in.b.AgentPID(); now != agent {
		t.Errorf("the agent %d of B has become %d", agent, now)
	}
	stopLoad(in.a, in.load)
	nothingLeft(t, in.a)
	nothingLeft(t, in.b)
}

// inputs is what the cases share: a workload on A that nobody may harm.
type inputs struct {
	a, b *testhost.Host
	load load
}

// A wish is a command line for A, with its environment.
type wish struct {
	env  []string
	args []string
	pid  int // that it is about, if there is one
}

func asked(args ...string) wish {
	return wish{args: append([]string{"migrate", args[0], "--json"}, args[1:]...)}
}

// move wishes the shared workload to go to a target.
func (in *inputs) move(target string, flags ...string) wish {
	return ofPID(in.load.pid, target, flags...)
}

func (w wish) with(env ...string) wish { return wish{env, w.args, w.pid} }

func ofPID(pid int, target string, flags ...string) wish {
	w := asked(append([]string{"move", "process:" + strconv.Itoa(pid), target}, flags...)...)
	w.pid = pid
	return w
}

// An answer is all that the command said.
type answer struct {
	code   int
	stderr string
	last   struct {
		migrate.Report
		migrate.Failure
		ExitStatus int `json:"exit-status"`
	}
}

func (in *inputs) try(t *testing.T, w wish) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return finishWish(t, in.a.Command(ctx, "env", append(w.env, w.args...)...))
}

func finishWish(t *testing.T, cmd *exec.Cmd) (a answer) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run() // its end is in the exit status
	a.code, a.stderr = exitCode(cmd), stderr.String()
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &a.last); err != nil {
		t.Fatalf("the last line of %q is no JSON: %v\n%s", &stdout, err, a.stderr)
	}
	return a
}

// runsOn demands that the process that the wish is about is there and not
// stopped.
func (in *inputs) runsOn(t *testing.T, w wish) {
	t.Helper()
	if w.pid == 0 {
		return
	}
	if stat := in.a.Run(t, "cut", "-d)", "-f2", fmt.Sprintf("/proc/%d/stat", w.pid)); !strings.HasPrefix(stat, " S") && !strings.HasPrefix(stat, " R") {
		t.Errorf("process %d: %s", w.pid, stat)
	}
}

// A no is what the command must say.
type no struct {
	code  int
	codes []string // of the blockers, if preflight says no
	words []string // that the error must have
}

func usage(words ...string) no { return no{1, nil, words} }

func blocked(code string, words ...string) no { return no{3, []string{code}, words} }

func failed(words ...string) no { return no{4, nil, words} }

// noise is what no user must read.
var noise = regexp.MustCompile(`goroutine |panic|\.go:\d|0x[0-9a-f]{6}|%!|\*[a-z]+\.[A-Z]|&\{|<nil>|map\[|level=`)

func (n no) check(t *testing.T, a answer) {
	t.Helper()
	if a.code != n.code {
		t.Errorf("exit status %d, want %d", a.code, n.code)
	}
	n.checkJSON(t, a)
	n.checkWords(t, a.stderr)
	if t.Failed() {
		t.Logf("last object: %+v\nstandard error:\n%s", a.last, a.stderr)
	}
}

func (n no) checkJSON(t *testing.T, a answer) {
	t.Helper()
	r := a.last
	switch {
	case r.Type == "error":
		if r.What == "" || r.Advice == "" || r.ExitStatus != n.code {
			t.Errorf("error without what, advice or exit status: %+v", r.Failure)
		}
	case r.Type != "result" || r.Owner != migrate.OwnerSource:
		t.Errorf("type %q, owner %q", r.Type, r.Owner)
	case n.code == 3:
		if r.Status != migrate.StatusBlocked || len(r.Blockers) != len(n.codes) {
			t.Errorf("status %s, blockers %+v, want %q", r.Status, r.Blockers, n.codes)
			return
		}
		for i, b := range r.Blockers {
			if b.Code != n.codes[i] || b.What == "" || b.Advice == "" {
				t.Errorf("blocker %+v, want %s", b, n.codes[i])
			}
		}
	case r.Status != migrate.StatusFailed || r.Error == nil || r.Error.What == "" || r.Error.Advice == "":
		t.Errorf("status %s, error %+v", r.Status, r.Error)
	}
}

// checkWords wants one error of at most three lines, or one of two for each
// blocker.
func (n no) checkWords(t *testing.T, stderr string) {
	t.Helper()
	errors := 0
	for line := range strings.Lines(stderr) {
		said, ok := strings.CutPrefix(line, "migrate: ")
		if !ok || noise.MatchString(line) {
			t.Errorf("not for a user's eyes: %s", line)
		}
		if !strings.HasPrefix(said, "cause: ") && !strings.HasPrefix(said, "hint: ") {
			errors++
		}
	}
	if errors != max(1, len(n.codes)) || !strings.Contains(stderr, "migrate: hint: ") {
		t.Errorf("%d errors, want %d, with advice", errors, max(1, len(n.codes)))
	}
	for _, w := range n.words {
		if !strings.Contains(stderr, w) {
			t.Errorf("the error does not say %q", w)
		}
	}
}

// refusals end before anything is touched.
var refusals = []struct {
	name string
	make func(*testing.T, *inputs) wish
	want no
}{
	{"PID gone", func(t *testing.T, in *inputs) wish { return asked("move", "process:9999999", "B") }, blocked("not-found", "no process 9999999")},
	{"capsule gone", func(t *testing.T, in *inputs) wish { return asked("move", "capsule:none", "B") }, blocked("not-found", "no capsule none")},
	{"PID 1", func(t *testing.T, in *inputs) wish { return ofPID(1, "B") }, blocked("host-init", "process 1")},
	{"itself inside", func(t *testing.T, in *inputs) wish {
		return wish{args: []string{"sh", "-c", "migrate move --json process:$$ B; exit $?"}}
	}, blocked("caller-inside", "has this command in it")},
	{"zombie", func(t *testing.T, in *inputs) wish {
		pid := start(t, in.a, "sh", "-c", "sleep 0.01 & exec sleep 1000")
		zombie := childOf(t, in.a, pid)
		await(t, "it ends", func() bool {
			return strings.Contains(in.a.Run(t, "cat", fmt.Sprintf("/proc/%d/stat", zombie)), ") Z ")
		})
		return asked("move", fmt.Sprintf("process:%d", zombie), "B")
	}, blocked("ended", "has ended")},
	{"another user's, without the right", func(t *testing.T, in *inputs) wish {
		w := ofPID(start(t, in.a, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "1000"), "B")
		w.args = append([]string{"setpriv", "--bounding-set=-sys_resource"}, w.args...)
		return w
	}, blocked("capability", "(sleep) runs as another user", "with CAP_SYS_RESOURCE")},
	{"System V shared memory of the host", func(t *testing.T, in *inputs) wish {
		pid := start(t, in.a, "/usr/bin/python3", "-c", sysv)
		await(t, "it is attached", func() bool {
			return strings.Contains(in.a.Run(t, "cat", fmt.Sprintf("/proc/%d/maps", pid)), "/SYSV")
		})
		return ofPID(pid, "B")
	}, blocked("sysv-shm", "System V shared memory", "unshare --ipc")},
	{"no number", func(t *testing.T, in *inputs) wish { return asked("move", "process:web", "B") }, usage("process:web")},
	{"no such kind", func(t *testing.T, in *inputs) wish { return asked("move", "vm:web", "B") }, usage("vm:web")},
	{"no target", func(t *testing.T, in *inputs) wish { return asked("move", in.load.ref()) }, usage("want SRC DST")},
	{"no port", func(t *testing.T, in *inputs) wish { return in.move("B:") }, usage(`"B:"`, "HOST:PORT")},
	{"port too large", func(t *testing.T, in *inputs) wish { return in.move("B:65536") }, usage(`"B:65536"`, "HOST:PORT")},
	{"broken address", func(t *testing.T, in *inputs) wish { return in.move("[::1") }, usage(`"[::1"`, "HOST:PORT")},
	{"no host", func(t *testing.T, in *inputs) wish { return in.move(":7420") }, usage(`":7420"`, "HOST:PORT")},
	{"unknown flag", func(t *testing.T, in *inputs) wish { return in.move("B", "--fast") }, usage("--fast")},
	{"unknown policy", func(t *testing.T, in *inputs) wish { return in.move("B", "--clock", "sideways") }, usage("sideways")},
	{"no time", func(t *testing.T, in *inputs) wish { return in.move("B", "--timeout", "0") }, usage("timeout")},
	{"not root", func(t *testing.T, in *inputs) wish {
		w := in.move("B")
		w.args = append([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}, w.args...)
		return w
	}, no{3, nil, []string{"needs root", "sudo"}}},

	{"no agent", func(t *testing.T, in *inputs) wish { return in.move("B:7499") }, failed("no agent answers", "migrate agent")},
	{"no such host", func(t *testing.T, in *inputs) wish { return in.move("nowhere.invalid") }, failed("no agent answers", "nowhere.invalid")},
	{"another host", func(t *testing.T, in *inputs) wish { return in.move("localhost") }, failed("certificate is for another host")},
	{"itself", func(t *testing.T, in *inputs) wish { return ofPID(start(t, in.a, "sleep", "1000"), "A") }, blocked("pid-taken", "taken on the target by sleep")},
	{"wrong authority", func(t *testing.T, in *inputs) wish {
		in.a.Run(t, "migrate", "--pki-dir", "/run/other-ca", "pki", "init")
		in.a.Run(t, "migrate", "--pki-dir", "/run/other-ca", "pki", "issue", "A", "--out", "/run/other-pki")
		return in.move("B").with("MIGRATE_PKI_DIR=/run/other-pki")
	}, failed("not from an authority this host trusts", "migrate pki issue")},
	{"no certificate", func(t *testing.T, in *inputs) wish {
		return in.move("B").with("MIGRATE_PKI_DIR=/nonexistent")
	}, no{3, nil, []string{"no certificate", "migrate pki issue"}}},
	{"not allowed", func(t *testing.T, in *inputs) wish {
		return in.move(extraAgent(t, in.b, nil, "--allow", "C"))
	}, failed("does not allow this host", "--allow")},
	{"only an operator", func(t *testing.T, in *inputs) wish {
		return in.move(extraAgent(t, in.b, nil, "--allow-operator", "A"))
	}, failed("host A may not do that", "--allow A")},
	{"other versions", func(t *testing.T, in *inputs) wish {
		port := nextPort.Add(1)
		startInState(t, in.b, "newer-agent", fmt.Sprintf(":%d", port))
		return in.move(fmt.Sprintf("B:%d", port))
	}, failed("no protocol version that both hosts speak", "50 to 51", "same release")},

	{"PID taken", func(t *testing.T, in *inputs) wish {
		pid := start(t, in.a, "sleep", "1000")
		takePID(t, in.b, pid)
		return ofPID(pid, "B")
	}, blocked("pid-taken", "taken on the target by sleep")},
	{"io_uring", func(t *testing.T, in *inputs) wish { return ofPID(startInState(t, in.a, "io-uring", ""), "B") }, blocked("io-uring", "uses io_uring")},
	{"device mapped", func(t *testing.T, in *inputs) wish { return ofPID(startInState(t, in.a, "device", ""), "B") }, blocked("device", "has the device /run/mapped-device mapped")},
	{"traced", func(t *testing.T, in *inputs) wish {
		pid := start(t, in.a, "sleep", "1000")
		startInState(t, in.a, "tracer", strconv.Itoa(pid))
		return ofPID(pid, "B")
	}, blocked("traced", "is traced by process")},
	{"time namespace in the tree", func(t *testing.T, in *inputs) wish {
		pid := start(t, in.a, "sh", "-c", "unshare --time --fork sleep 1000 & wait")
		childOf(t, in.a, childOf(t, in.a, pid)) // wait for it
		return ofPID(pid, "B")
	}, no{3, []string{"time-namespace", "time-namespace"}, []string{"(sleep) is in another time namespace", "(unshare) has set another time namespace"}}},
	{"connected", func(t *testing.T, in *inputs) wish {
		l := otherLoad(t, in.a)
		startInState(t, in.a, "connected", l.address())
		return ofPID(l.pid, "B")
	}, blocked("tcp-connected", "established TCP connections: 127.0.0.1:", "--tcp close")},

	{"store too small", func(t *testing.T, in *inputs) wish {
		tmpfs(t, in.b, "/run/small-store", "size=16m")
		return in.move(extraAgent(t, in.b, nil, "--store", "/run/small-store"))
	}, blocked("store", "the store on B has 16 MiB free", "--store")},
	{"all at once", func(t *testing.T, in *inputs) wish {
		tmpfs(t, in.b, "/run/tiny-store", "size=1m")
		target := extraAgent(t, in.b, nil, "--store", "/run/tiny-store")
		pid := startInState(t, in.a, "io-uring", "")
		takePID(t, in.b, pid)
		return ofPID(pid, target).with("MIGRATE_CRIU=/nonexistent/criu")
	}, no{3, []string{"io-uring", "criu", "pid-taken", "store"}, nil}},
	{"no CRIU", func(t *testing.T, in *inputs) wish { return in.move("B").with("MIGRATE_CRIU=/nonexistent/criu") },
		blocked("criu", "A: criu is not installed", "scripts/setup")},
	{"old CRIU", func(t *testing.T, in *inputs) wish { return in.move("B").with("MIGRATE_CRIU=" + oldCRIU(t, in.a)) },
		blocked("criu", "A: no usable criu", "it is version 3.10, and 3.17 or newer is needed", "scripts/setup")},
	{"CRIU fails its check", func(t *testing.T, in *inputs) wish { return in.move("B").with("MIGRATE_CRIU=" + failingCRIU(t, in.a)) },
		blocked("criu", "A: no usable criu", `fails "criu check": ptrace is broken`, "scripts/setup")},
	{"no CRIU on the target", func(t *testing.T, in *inputs) wish {
		return in.move(extraAgent(t, in.b, []string{"MIGRATE_CRIU=/nonexistent/criu"}))
	}, blocked("criu", "B: criu is not installed", "scripts/setup")},
	{"old CRIU on the target", func(t *testing.T, in *inputs) wish {
		return in.move(extraAgent(t, in.b, []string{"MIGRATE_CRIU=" + oldCRIU(t, in.b)}))
	}, blocked("criu", "B: no usable criu", "it is version 3.10", "scripts/setup")},
	{"CRIU fails its check on the target", func(t *testing.T, in *inputs) wish {
		return in.move(extraAgent(t, in.b, []string{"MIGRATE_CRIU=" + failingCRIU(t, in.b)}))
	}, blocked("criu", "B: no usable criu", `fails "criu check": ptrace is broken`, "scripts/setup")},
	{"no time namespaces for one that has its own", func(t *testing.T, in *inputs) wish {
		target := extraAgent(t, in.b, []string{"MIGRATE_PROBE_DISABLE=timens"})
		pid := start(t, in.a, "unshare", "--time", "--fork", "sleep", "1000")
		return ofPID(childOf(t, in.a, pid), target)
	}, blocked("no-time-namespaces", "lives in a time namespace", "CONFIG_TIME_NS")},
	{"journal cannot be written", func(t *testing.T, in *inputs) wish {
		tmpfs(t, in.a, "/run/full-state", "size=4k")
		fill(t, in.a, "/run/full-state")
		return in.move("B", "--state-dir", "/run/full-state")
	}, failed("the journal of A cannot be written", "no space left on", "/run/full-state", "--state-dir")},
}

// sysv attaches System V shared memory that goes with it.
const sysv = `
import ctypes, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(0, 4096, 0o1600)
libc.shmat(segment, None, 0)
libc.shmctl(segment, 0, None)
time.sleep(1000)
`

// takePID starts a process that has the given number.
func takePID(t *testing.T, h *testhost.Host, pid int) {
	t.Helper()
	// Numbers then go on where they were, apart from those of the other host.
	const script = `exec 9> /run/last-pid.lock; flock 9
	last=/proc/sys/kernel/ns_last_pid; read was < $last
	for i in 1 2 3 4 5 6 7 8 9; do
		echo $(($1 - 1)) > $last
		setsid sleep 1000 </dev/null >/dev/null 2>&1 9>&- &
		echo $was > $last
		[ $! = $1 ] && exit; kill $!
	done; exit 1`
	h.Run(t, "sh", "-c", script, "sh", strconv.Itoa(pid))
	t.Cleanup(func() { end(h, "KILL", pid) })
}

func childOf(t *testing.T, h *testhost.Host, pid int) (child int) {
	t.Helper()
	await(t, "a child", func() bool {
		out, err := h.Output(t.Context(), "pgrep", "-P", strconv.Itoa(pid))
		child, _ = strconv.Atoi(strings.TrimSpace(out))
		return err == nil
	})
	return child
}

// otherLoad is a workload beside the shared one.
func otherLoad(t *testing.T, h *testhost.Host) load {
	t.Helper()
	l := load{port: int(nextPort.Add(1))}
	l.pid = start(t, h, "testload", "--listen", fmt.Sprintf("0.0.0.0:%d", l.port), "--dir", t.TempDir(), "--memory", "8")
	l.awaitReady(t, h)
	return l
}

// script writes a program into a host.
func script(t *testing.T, h *testhost.Host, text string) string {
	t.Helper()
	path := fmt.Sprintf("/run/script-%d", nextPort.Add(1))
	h.Run(t, "sh", "-c", `printf '%s\n' "$2" > $1; chmod +x $1`, "sh", path, text)
	return path
}

// oldCRIU answers the one question that is asked of it: a CriuResp of type
// VERSION, success, 3.10 (rpc.proto of CRIU).
func oldCRIU(t *testing.T, h *testhost.Host) string {
	return script(t, h, `#!/bin/sh
[ "$1" = swrk ] || exit 0
dd bs=64k count=1 <&"$2" >/dev/null 2>&1
printf '\010\012\020\001\122\004\010\003\020\012' >&"$2"`)
}

// failingCRIU is a good one on a kernel that does not suit it.
func failingCRIU(t *testing.T, h *testhost.Host) string {
	return script(t, h, fmt.Sprintf(`#!/bin/sh
[ "$1" = check ] || exec %q "$@"
echo "(00.001) Error (criu/cr-check.c:999): ptrace is broken" >&2
exit 1`, realCRIU(t)))
}
