package rootfs

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDigest changes a tree in every way, and wants to hear of those that a workload could see.
func TestDigest(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir tree; cd tree;"+lowerScript+"mkfifo pipe; mknod null c 1 3; truncate -s 1m hole")
	shell(t, dir, "cp -a tree other")
	digest := func(root string) string {
		d, err := Digest(t.Context(), dir+"/"+root, Plain)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	want := digest("tree")
	if len(want) != 64 || digest("other") != want {
		t.Fatalf("Digest = %s, %s of a copy", want, digest("other"))
	}
	for _, script := range []string{
		"touch etc dir/x", "rm etc/four; cp -a etc/three etc/four", "dd if=/dev/zero of=zeros bs=4096 count=256; touch -r hole zeros; mv zeros hole",
	} {
		shell(t, dir+"/other", script)
		if digest("other") != want {
			t.Errorf("the digest changes with: %s", script)
		}
	}
	for _, script := range []string{
		"printf O | dd of=etc/one conv=notrunc", "chmod 755 etc/one", "chown 1 etc/one", "chgrp 1 etc/one", "ln -sf two etc/link",
		"mv etc/two etc/2", "rm etc/three", "mkdir etc/new", "rm pipe; mkfifo -m 600 pipe", "rm null; mknod null c 1 5",
		"truncate -s 2m hole", "printf x | dd of=hole bs=1 seek=500000 conv=notrunc", "chmod 700 .",
		"rm etc/one; mkdir etc/one",
	} {
		shell(t, dir, "rm -rf other; cp -a tree other; cd other; "+script)
		if digest("other") == want {
			t.Errorf("the digest does not change with: %s", script)
		}
	}
	shell(t, dir, "rm -rf other; cp -a tree other")
	if err := unix.Setxattr(dir+"/other/etc/one", "user.x", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	if digest("other") == want {
		t.Error("the digest does not change with an extended attribute")
	}
}

func TestFileDigest(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "echo one >a; cp -p a b; ln -s a link")
	digest := func(name string) string {
		d, err := FileDigest(t.Context(), dir+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	want := digest("a")
	if digest("b") != want || digest("link") != want {
		t.Error("a copy, or a link, has another digest")
	}
	for _, script := range []string{"echo two >b", "chmod 600 b", "chown 1 b"} {
		shell(t, dir, "cp -p a b; "+script)
		if digest("b") == want {
			t.Errorf("the digest does not change with: %s", script)
		}
	}
	if _, err := FileDigest(t.Context(), dir); err == nil {
		t.Error("a directory has a digest of a file")
	}
}

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir -p shared/tree own/tree mount")
	if err := os.Symlink(dir+"/shared", dir+"/alias"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir+"/mount", "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir+"/mount", 0)
	for _, tt := range []struct {
		plant, find string
		inside      bool
		want        bool
	}{
		{"/shared/tree", "/shared/tree", false, true},
		{"/shared/tree", "/alias/tree/", false, true},
		{"/shared/tree", "/own/tree", false, false},
		{"/shared/tree", "/none/at/all", false, false},
		{"/mount", "/mount", true, true},
		{"/mount", "/own", true, false},
	} {
		p, remove, err := PlantProbe(dir + tt.plant)
		if err != nil {
			t.Fatal(err)
		}
		if p.Inside != tt.inside {
			t.Errorf("the probe for %s is inside: %v", tt.plant, p.Inside)
		}
		if got, err := FindProbe(dir+tt.find, p); err != nil || got != tt.want {
			t.Errorf("FindProbe(%s) of %s = %v, %v, want %v", tt.find, tt.plant, got, err, tt.want)
		}
		other := p
		other.Token = token()
		if got, err := FindProbe(dir+tt.plant, other); err != nil || got {
			t.Errorf("a probe of another move is taken for ours: %v, %v", got, err)
		}
		if err := remove(); err != nil {
			t.Error(err)
		}
		if got, err := FindProbe(dir+tt.plant, p); err != nil || got {
			t.Errorf("a probe that was removed is found: %v, %v", got, err)
		}
	}
	for _, name := range []string{"", "passwd", probePrefix, probePrefix + "../../../etc/passwd", probePrefix + "00"} {
		if _, err := FindProbe(dir, Probe{Name: name}); !errors.Is(err, ErrRefused) {
			t.Errorf("FindProbe with the name %q: %v", name, err)
		}
	}
}

// TestProbeIsNotSent looks for shared storage while a tree is sent.
func TestProbeIsNotSent(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir src; touch src/f src/"+probePrefix+"0")
	sc, err := walk(t.Context(), dir+"/src")
	if err != nil || len(sc.entries) != 2 {
		t.Errorf("walk = %+v, %v, want the root and f", sc, err)
	}
}

func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir tree; cd tree; head -c 10000 /dev/urandom >f; ln f g; mkdir d; mknod null c 1 3; mknod white c 0 0; touch flagged")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/tree/socket"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir+"/tree/f", "trusted.mine", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	setFlags(t, dir+"/tree/flagged", unix.STATX_ATTR_IMMUTABLE)
	defer setFlags(t, dir+"/tree/flagged", 0)
	for kind, devices := range map[Kind]int{Plain: 2, Upper: 1} {
		c, err := Survey(t.Context(), dir+"/tree", kind)
		if err != nil {
			t.Fatal(err)
		}
		if c.Entries != 6 || c.Bytes != 12288 || c.Sockets != 1 || len(c.Devices) != devices || len(c.Blockers) != 0 ||
			!slices.Equal(codes(c.Warnings), []string{CodeXattrs, CodeFlags}) {
			t.Errorf("Survey = %+v", c)
		}
	}
}

// setFlags sets a file's flags, whose values statx(2) shares with ioctl_iflags(2).
func setFlags(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
		t.Fatal(err)
	}
}

func TestDigestCache(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir tree cache; echo content >tree/f")
	c := DigestCache{Dir: dir + "/cache"}
	kept := func() int {
		files, err := os.ReadDir(c.Dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	want, err := Digest(t.Context(), dir+"/tree", Plain)
	if err != nil {
		t.Fatal(err)
	}
	for kept() == 0 { // until the tree is old enough
		if got, err := c.Digest(t.Context(), dir+"/tree", Plain); err != nil || got != want {
			t.Fatalf("Digest = %s, %v, want %s", got, err, want)
		}
	}
	if age := time.Since(time.Unix(statOf(t, dir+"/tree/f").ctime.sec, 0)); age < settledAfterRound {
		t.Errorf("a digest is kept of a file that changed %v ago", age)
	}
	if got, err := c.Digest(t.Context(), dir+"/tree", Plain); err != nil || got != want {
		t.Errorf("Digest = %s, %v, want %s", got, err, want)
	}
	shell(t, dir, "echo changed >tree/f")
	if got, err := c.Digest(t.Context(), dir+"/tree", Plain); err != nil || got == want {
		t.Errorf("Digest = %s, %v, after a change", got, err)
	}
	if _, err := c.Digest(t.Context(), dir+"/tree", Upper); err != nil || kept() != 1 {
		t.Errorf("%v, %d digests are kept", err, kept())
	}
}
