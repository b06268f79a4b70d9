package containers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate"
	"migrate/internal/testhost"
)

// own is a directory that each host has for itself, by the same path.
const own = "/run/own"

// apart gives hosts an own directory each, on the machine's disk.
func apart(t *testing.T, hosts ...*testhost.Host) {
	t.Helper()
	for _, h := range hosts {
		dir := filepath.Join(t.TempDir(), h.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		h.Run(t, "mkdir", "-p", own)
		h.Run(t, "mount", "--bind", dir, own)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if out, err := h.Output(ctx, "umount", "-l", own); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// writer appends numbered lines to a file, each flushed before the next.
const writer = `n=0; while :; do n=$((n+1)); echo $n >>/data/log; busybox fsync /data/log; echo $n >/data/last; done`

// plainRoot has a container's root in a directory of the host's own.
func plainRoot(t *testing.T, h *testhost.Host) func(*specs.Spec) {
	return func(s *specs.Spec) {
		h.Run(t, "mkdir", "-p", own+"/c")
		h.Run(t, "cp", "-a", s.Root.Path, own+"/c/rootfs")
		s.Root.Path = own + "/c/rootfs"
	}
}

// overlayRoot has it in an overlay there.
func overlayRoot(t *testing.T, h *testhost.Host, bundle string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		h.Run(t, "mkdir", "-p", own+"/image", own+"/c/upper", own+"/c/work", bundle+"/rootfs")
		h.Run(t, "cp", "-a", s.Root.Path, own+"/image/rootfs")
		h.Run(t, "sh", "-c", "cd "+own+"/image/rootfs && mkdir -p gone/sub opaque/old && echo x >gone/sub/x && echo o >opaque/old/o && echo t >etc/two")
		h.Run(t, "mount", "-t", "overlay", "overlay", "-o",
			fmt.Sprintf("lowerdir=%[1]s/image/rootfs,upperdir=%[1]s/c/upper,workdir=%[1]s/c/work", own), bundle+"/rootfs")
		s.Root.Path = "rootfs"
	}
}

// lines demands that a container's log has each line once, in order, up to one that
// it knows to be written, and returns how many there are.
func (c container) lines(t *testing.T, h *testhost.Host) int {
	t.Helper()
	last := 0
	await(t, "the last line's number can be read", func() (ok bool) { // it is written in place
		n, err := strconv.Atoi(c.exec(t, h, "cat", "/data/last"))
		last = n
		return err == nil
	})
	log := strings.Fields(c.exec(t, h, "cat", "/data/log"))
	for i, line := range log {
		if line != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log on %s is %q", i+1, h.Name, line)
		}
	}
	if len(log) < last {
		t.Fatalf("the log on %s has %d lines, %d were written", h.Name, len(log), last)
	}
	return len(log)
}

// grows waits until the container has written more lines.
func (c container) grows(t *testing.T, h *testhost.Host) {
	t.Helper()
	before := c.lines(t, h)
	await(t, "the container writes on", func() bool { return c.lines(t, h) > before+5 })
}

// TestPlainRoot moves a container whose root is a directory that the other host does
// not see, there and back, while it writes.
func TestPlainRoot(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	apart(t, a, b)
	c := start(t, a, "runc", "plain", plainRoot(t, a), "sh", "-c", writer)
	await(t, "the container writes", func() bool { return a.Run(t, "sh", "-c", "cat "+own+"/c/rootfs/data/last 2>/dev/null; true") != "" })
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		c.grows(t, hop[0])
		r := c.move(t, hop[0], hop[1], "--verify")
		c.grows(t, hop[1])
		sent(t, r, own+"/c/rootfs")
	}
	c.remove(a)
}

// sent demands that a report tells of a tree that was sent with a first and a final
// pass, and compared.
func sent(t *testing.T, r migrate.Report, path string) {
	t.Helper()
	for _, f := range r.Files {
		n := len(f.Passes)
		if f.Path == path && f.Decision == migrate.TreeShip && n > 1 && f.Passes[n-1].Final && f.Passes[0].Data > 0 {
			t.Logf("%s: %+v", path, f.Passes)
			return
		}
	}
	t.Errorf("the report does not tell that %s was sent: %+v", path, r.Files)
}

// TestOverlayRoot moves a container on an overlay whose lower layer the target lacks
// at first.
func TestOverlayRoot(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	apart(t, a, b)
	const bundle = "/run/bundles/over"
	c := start(t, a, "runc", "over", overlayRoot(t, a, bundle), "sh", "-c", writer)
	await(t, "the container writes", func() bool { return a.Run(t, "sh", "-c", "cat "+own+"/c/upper/data/last 2>/dev/null; true") != "" })
	c.exec(t, a, "sh", "-c", `busybox rm -r gone opaque etc/two; busybox mkdir opaque; echo new >opaque/new; echo one >etc/one
		busybox ln etc/one data/other; busybox chmod 2750 data; busybox mkfifo data/pipe; busybox truncate -s 10000000 data/sparse`)
	a.Run(t, "chown", "3:4", bundle+"/rootfs/etc/one")
	a.Run(t, "python3", "-c", "import os; os.setxattr('"+bundle+"/rootfs/etc/one', 'user.note', b'kept')")
	r, _, err := c.tryMove(a, b)
	if err == nil || len(r.Blockers) != 1 || r.Blockers[0].Code != "layer-missing" || !strings.Contains(r.Blockers[0].Advice, "--ship-image") {
		t.Fatalf("without the layer on the target: %v, %+v", err, r.Blockers)
	}
	c.grows(t, a)
	before := look(t, a, bundle)
	for i, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		flags := []string{"--verify"}
		if i == 0 {
			flags = append(flags, "--ship-image")
		}
		r := c.move(t, hop[0], hop[1], flags...)
		sent(t, r, own+"/c/upper")
		c.grows(t, hop[1])
		if after := look(t, hop[1], bundle); after != before {
			t.Errorf("on %s:\n%s\nbefore:\n%s", hop[1].Name, after, before)
		}
		if left := hop[0].Run(t, "ls", "-A", own+"/c"); left != "" {
			t.Errorf("left on %s: %s", hop[0].Name, left)
		}
	}
	c.remove(a)
	a.Run(t, "umount", bundle+"/rootfs")
}

// look describes what a container sees of the files that a test has made.
func look(t *testing.T, h *testhost.Host, bundle string) string {
	t.Helper()
	return h.Run(t, "sh", "-c", "cd "+bundle+`/rootfs && find . -xdev ! -path "./data/l*" ! -path ./data ! -path ./tmp -printf "%p %y %m %U:%G %n %s %l %T@\n" | sort
		cat etc/one data/other opaque/new; [ $(stat -c %i etc/one) = $(stat -c %i data/other) ] && echo linked
		python3 -c "import os; print(os.getxattr('etc/one', 'user.note'))"`)
}

// fileCells are the cells of the crash matrix in which files make a difference.
var fileCells = []cell{
	{"source:pre-copy", "migrate move", "A"},
	{"target:restore", "migrate supervise", "A"},
	{"supervisor:restored", "migrate supervise", "A"},
	{"source:before-commit", "migrate move", "A"},
	{"target:voted", "migrate agent", ""},
	{"source:commit", "migrate move", "B"},
	{"target:commit", "migrate agent", "B"},
	{"target:finish", "migrate agent", "B"},
	{"source:finish", "migrate move", "B"},
}

// TestFilesCrash kills parts of a move of a container with files of its own: whoever
// has it in the end has them as they were, and the other has none.
func TestFilesCrash(t *testing.T) {
	t.Parallel()
	a, b := pair(t, shortIdle)
	apart(t, a, b)
	for _, x := range someOf(fileCells, 3) {
		ok := t.Run(x.point+"/"+strings.ReplaceAll(x.victim, " ", "-"), func(t *testing.T) { filesCell(t, x, a, b) })
		if !ok {
			return
		}
	}
}

func filesCell(t *testing.T, x cell, a, b *testhost.Host) {
	const bundle = "/run/bundles/files"
	c := load(t, a, "runc", "files", overlayRoot(t, a, bundle), "--memory", "8")
	c.exec(t, a, "sh", "-c", "busybox rm -r gone; echo one >etc/one; busybox ln etc/one data/other")
	before := a.Run(t, "sh", "-c", "cd "+bundle+"/rootfs; find . -xdev ! -path './tmp*' -type f -exec md5sum {} + | sort")
	where := c.crash(t, x, a, b, "--ship-image")
	if after := where.Run(t, "sh", "-c", "cd "+bundle+"/rootfs; find . -xdev ! -path './tmp*' -type f -exec md5sum {} + | sort"); after != before {
		t.Errorf("files on %s:\n%s\nbefore:\n%s", where.Name, after, before)
	}
	other, left := b, own
	if where == b {
		other, left = a, own+"/c"
	}
	await(t, "the files are in one place", func() bool {
		return other.Run(t, "find", left, "-mindepth", "1") == "" && where.Run(t, "find", own, "-name", ".migrate-*") == ""
	})
	c.remove(where)
	for _, h := range []*testhost.Host{a, b} {
		h.Run(t, "sh", "-c", fmt.Sprintf("umount %s/rootfs 2>/dev/null; rm -rf %s %s/*", bundle, bundle, own))
	}
	c.gone(t, a)
	c.gone(t, b)
}

// TestVolume moves a container with a directory of the host that it writes to.
func TestVolume(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	apart(t, a, b)
	const volume, plain = own + "/volume", own + "/c/rootfs"
	for _, h := range []*testhost.Host{a, b} {
		h.Run(t, "sh", "-c", "mkdir -p "+volume+"/old; echo "+h.Name+" >"+volume+"/old/host; echo hosts >"+own+"/hosts; chown 1:1 "+own+"/hosts")
	}
	root := plainRoot(t, a)
	c := start(t, a, "crun", "volume", func(s *specs.Spec) {
		root(s)
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/data", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}},
			specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: own + "/hosts", Options: []string{"bind", "rw"}})
	}, "sh", "-c", writer)
	await(t, "the container writes", func() bool { return a.Run(t, "sh", "-c", "cat "+volume+"/last 2>/dev/null; true") != "" })
	r, _, err := c.tryMove(a, b)
	if err == nil || len(r.Blockers) != 1 || r.Blockers[0].Code != "mount-writable" || !strings.Contains(r.Blockers[0].Advice, "--sync "+volume) {
		t.Fatalf("with a directory of its own on the target: %v, %+v", err, r.Blockers)
	}
	b.Run(t, "sh", "-c", "echo other >"+own+"/hosts")
	if r, _, err := c.tryMove(a, b, "--sync", volume); err == nil || len(r.Blockers) != 1 || r.Blockers[0].Code != "files-differ" {
		t.Fatalf("with another file on the target: %v, %+v", err, r.Blockers)
	}
	b.Run(t, "sh", "-c", "echo hosts >"+own+"/hosts")
	c.grows(t, a)
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		r := c.move(t, hop[0], hop[1], "--sync", volume, "--verify")
		sent(t, r, volume)
		c.grows(t, hop[1])
		if got := hop[1].Run(t, "cat", volume+"/old/host"); strings.TrimSpace(got) != "A" {
			t.Errorf("the volume on %s is that of %s", hop[1].Name, got)
		}
		if left := hop[1].Run(t, "find", own, "-name", ".migrate-*"); left != "" {
			t.Errorf("left on %s: %s", hop[1].Name, left)
		}
	}
	c.remove(a)
}

// TestSync moves a process with a directory of its host.
func TestSync(t *testing.T) {
	t.Parallel()
	a, b := pair(t, nil)
	apart(t, a, b)
	dir := own + "/work"
	a.Run(t, "mkdir", "-p", dir)
	a.Run(t, "migrate", "run", "--name", "sync", "--", "sh", "-c", strings.ReplaceAll(strings.ReplaceAll(writer, "/data", dir), "busybox fsync", "sync"))
	lines := func(h *testhost.Host) int {
		n := 0
		for i, line := range strings.Fields(h.Run(t, "sh", "-c", "cat "+dir+"/log 2>/dev/null; true")) {
			if n = i + 1; line != strconv.Itoa(n) {
				t.Fatalf("line %d on %s is %q", n, h.Name, line)
			}
		}
		return n
	}
	await(t, "the capsule writes", func() bool { return lines(a) > 5 })
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		out := hop[0].Run(t, "migrate", "move", "capsule:sync", hop[1].Name, "--sync", dir, "--json")
		r, err := testhost.Report(out)
		if err != nil {
			t.Fatal(err)
		}
		sent(t, r, dir)
		before := lines(hop[1])
		await(t, "the capsule writes on", func() bool { return lines(hop[1]) > before+5 })
	}
	a.Run(t, "migrate", "stop", "capsule:sync")
}
