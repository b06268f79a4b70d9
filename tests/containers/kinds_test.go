package containers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/testhost"
)

// TestKinds moves containers of which each has something of its own, there and
// back, by each runtime.
func TestKinds(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	for _, runtime := range []string{"runc", "crun"} {
		for name, test := range map[string]func(*testing.T, string, *testhost.Host, *testhost.Host){
			"pipes": testPipes, "terminal": testTerminal, "binds": testBinds, "user": testUser, "limits": testLimits, "overlay": testOverlay,
		} {
			t.Run(runtime+"/"+name, func(t *testing.T) { test(t, runtime, a, b) })
		}
	}
}

// ticker writes lines and, to standard error, one for each that it reads.
const ticker = `n=0; while :; do n=$((n+1)); echo tick $n; if read -t 0.1 line; then echo "got $line" >&2; fi; done`

// testPipes has the container's output in the target's logs from the move on.
func testPipes(t *testing.T, runtime string, a, b *testhost.Host) {
	c := startBy(t, a, runtime, "pipes-"+runtime, "mkfifo /run/in /run/out 2>/dev/null; (sleep 600 >/run/in & cat /run/out >/run/pipes.log &); cat /run/in | $RUN 2>&1 | cat >/run/pipes.log &\nsleep 1", nil, "sh", "-c", ticker)
	await(t, "it ticks", func() bool { return strings.Contains(a.Run(t, "cat", "/run/pipes.log"), "tick 3\n") })
	c.move(t, a, b)
	await(t, "it ticks on", func() bool { return strings.Contains(b.Run(t, "migrate", "logs", runtime+":"+c.id), "\ntick ") })
	c.move(t, b, a)
	await(t, "it ticks on", func() bool { return strings.Contains(a.Run(t, "migrate", "logs", runtime+":"+c.id), "\ntick ") })
	c.remove(a)
	a.Run(t, "sh", "-c", "pkill -x sleep; rm -f /run/in /run/out; true")
}

// testTerminal has a container on a terminal, whose master is with the supervisor
// from the move on.
func testTerminal(t *testing.T, runtime string, a, b *testhost.Host) {
	change := func(s *specs.Spec) {
		s.Process.Terminal = true
		s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
	}
	// recvtty of the runtime's own project is not everywhere: a few lines do.
	script := `python3 -c '
import socket, os, sys, array
s = socket.socket(socket.AF_UNIX); s.bind("/run/console"); s.listen(1)
if os.fork(): sys.exit()
os.setsid(); c, _ = s.accept()
m, anc, _, _ = c.recvmsg(4096, socket.CMSG_SPACE(4)); fd = array.array("i", anc[0][2])[0]
while os.read(fd, 4096): pass
' </dev/null >/dev/null 2>&1; $RUN --console-socket /run/console; rm /run/console`
	script = strings.Replace(script, "$RUN", fmt.Sprintf("%s run --detach --console-socket /run/console --bundle /run/bundles/tty-%s tty-%s", runtime, runtime, runtime), 1)
	script = strings.Replace(script, " --console-socket /run/console; rm", "; rm", 1)
	c := startBy(t, a, runtime, "tty-"+runtime, script, change, "sh", "-c", `while :; do read line; echo "got $line at $(stty size) on $(tty)"; done`)
	c.move(t, a, b)
	say(t, b, c, "hello", "got hello at 33 77")
	c.move(t, b, a)
	say(t, a, c, "again", "got again at 33 77")
	c.remove(a)
}

// say types into the container and waits for what it shows.
func say(t *testing.T, h *testhost.Host, c container, line, want string) {
	t.Helper()
	await(t, "the container answers on its terminal", func() bool {
		h.Run(t, "sh", "-c", fmt.Sprintf("(echo %s; sleep 0.3) | timeout 2 migrate attach %s >/dev/null 2>&1; true", line, c.ref()))
		return strings.Contains(h.Run(t, "migrate", "logs", c.ref()), want)
	})
}

// testBinds has a directory and a file of the host in the container. What the
// target lacks is in the way, with its path.
func testBinds(t *testing.T, runtime string, a, b *testhost.Host) {
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.MkdirAll(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	a.Run(t, "sh", "-c", "echo from A >/run/hosts-"+runtime)
	change := func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/data/shared", Type: "bind", Source: shared, Options: []string{"rbind", "rw"}},
			specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: "/run/hosts-" + runtime, Options: []string{"bind", "ro"}})
	}
	c := load(t, a, runtime, "binds-"+runtime, change, "--memory", "8")
	r, _, err := c.tryMove(a, b)
	if err == nil || len(r.Blockers) != 1 || r.Blockers[0].Code != "mount" || !strings.Contains(r.Blockers[0].What, "/run/hosts-"+runtime) {
		t.Fatalf("without the file on the target: %v, %+v", err, r.Blockers)
	}
	b.Run(t, "sh", "-c", "echo from A >/run/hosts-"+runtime)
	c.move(t, a, b)
	c.exec(t, b, "sh", "-c", "echo written on B >/data/shared/note")
	if got := c.exec(t, b, "cat", "/etc/hosts"); got != "from A" {
		t.Errorf("the file on B: %q", got)
	}
	c.verify(t, b)
	c.move(t, b, a)
	if got := c.exec(t, a, "cat", "/data/shared/note"); got != "written on B" {
		t.Errorf("the directory on A: %q", got)
	}
	c.verify(t, a)
	c.remove(a)
}

// testUser has a container in a user namespace.
func testUser(t *testing.T, runtime string, a, b *testhost.Host) {
	change := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		for dir := s.Root.Path; dir != "/"; dir = filepath.Dir(dir) { // made for root alone
			info, err := os.Stat(dir)
			if err == nil {
				err = os.Chmod(dir, info.Mode()|0o711)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(s.Root.Path, "tmp"), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	c := load(t, a, runtime, "user-"+runtime, change, "--memory", "8")
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		c.move(t, hop[0], hop[1])
		c.verify(t, hop[1])
		_, pid := c.state(hop[1])
		if got := strings.Fields(hop[1].Run(t, "cat", procFile(pid, "uid_map"))); len(got) < 3 || got[1] != "100000" {
			t.Errorf("uid_map on %s: %q", hop[1].Name, got)
		}
		if got := c.exec(t, hop[1], "id", "-u"); got != "0" {
			t.Errorf("id -u inside: %q", got)
		}
	}
	c.remove(a)
}

// testLimits compares the limits of the container's cgroups.
func testLimits(t *testing.T, runtime string, a, b *testhost.Host) {
	change := func(s *specs.Spec) {
		memory, pids, quota, period := int64(256<<20), int64(55), int64(80000), uint64(100000)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	c := load(t, a, runtime, "limits-"+runtime, change, "--memory", "8", "--children", "1")
	before := limits(t, a, c)
	if !strings.Contains(before, "268435456") || !strings.Contains(before, "55") || !strings.Contains(before, "80000") {
		t.Fatalf("limits to begin with: %s", before)
	}
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		c.move(t, hop[0], hop[1])
		c.verify(t, hop[1])
		if after := limits(t, hop[1], c); after != before {
			t.Errorf("on %s: %s\nbefore: %s", hop[1].Name, after, before)
		}
	}
	c.remove(a)
}

// limits prints the limits of the container, whether it is frozen, and the
// cgroups of all its processes.
func limits(t *testing.T, h *testhost.Host, c container) string {
	t.Helper()
	const script = `cd /sys/fs/cgroup; for f in memory.max cpu.max pids.max cgroup.freeze memory/%[1]s/memory.limit_in_bytes pids/%[1]s/pids.max cpu/%[1]s/cpu.cfs_quota_us cpu/%[1]s/cpu.cfs_period_us freezer/%[1]s/freezer.state; do
		case $f in */*) ;; *) f=%[1]s/$f ;; esac; [ ! -e $f ] || echo "$f $(cat $f)"; done
		for p in $(find . -path "*/%[1]s/cgroup.procs" -exec cat {} + | sort -u); do cat /proc/$p/cgroup; done`
	return h.Run(t, "sh", "-c", fmt.Sprintf(script, c.id))
}

// testOverlay has a container on an overlay, whose directories both hosts see.
func testOverlay(t *testing.T, runtime string, a, b *testhost.Host) {
	dirs := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dirs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mounted := "/run/bundles/overlay-" + runtime + "/rootfs"
	change := func(s *specs.Spec) {
		a.Run(t, "mkdir", "-p", mounted)
		a.Run(t, "mount", "-t", "overlay", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", s.Root.Path, dirs, dirs), mounted)
		s.Root.Path = "rootfs"
	}
	c := load(t, a, runtime, "overlay-"+runtime, change, "--memory", "8")
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		c.exec(t, hop[0], "sh", "-c", "echo "+hop[0].Name+" >>/data/log")
		c.move(t, hop[0], hop[1])
		c.verify(t, hop[1])
	}
	if got := c.exec(t, a, "cat", "/data/log"); got != "A\nB" {
		t.Errorf("files in the overlay: %q", got)
	}
	c.remove(a)
	a.Run(t, "umount", mounted)
}
