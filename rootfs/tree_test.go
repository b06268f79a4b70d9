package rootfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"migrate"
)

const testID = migrate.ID("0123456789abcdef")

// snapshot describes every name of a tree by what a program can see of it, sockets and the
// attributes that are not carried left out. It shares no code with the package.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := map[string]string{}
	first := map[uint64]string{}
	snapshotDir(t, s, first, fd, "")
	return s
}

func snapshotDir(t *testing.T, s map[string]string, first map[uint64]string, fd int, path string) {
	t.Helper()
	s[path] = describe(t, first, fd, ".", path)
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(names)
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
		case unix.S_IFDIR:
			sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			snapshotDir(t, s, first, sub, path+"/"+name)
		default:
			s[path+"/"+name] = describe(t, first, fd, name, path+"/"+name)
		}
	}
}

func describe(t *testing.T, first map[uint64]string, fd int, name, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	d := fmt.Sprintf("mode %o owner %d:%d mtime %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	at := fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		d += fmt.Sprintf(" size %d content %x", st.Size, sha256.Sum256(b))
	case unix.S_IFLNK:
		target, err := os.Readlink(at)
		if err != nil {
			t.Fatal(err)
		}
		d += fmt.Sprintf(" target %q", target)
	case unix.S_IFCHR, unix.S_IFBLK:
		d += fmt.Sprintf(" device %x", st.Rdev)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if first[st.Ino] == "" {
			first[st.Ino] = path
		}
		d += fmt.Sprintf(" same as %q", first[st.Ino])
	}
	return d + describeXattrs(t, at)
}

func describeXattrs(t *testing.T, at string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(at, buf)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	sort.Strings(names)
	d := ""
	for _, name := range names {
		if name == "security.selinux" || strings.HasPrefix(name, "trusted.overlay.origin") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(at, name, value)
		if err != nil {
			t.Fatal(err)
		}
		d += fmt.Sprintf(" %s=%x", name, value[:n])
	}
	return d
}

// sameTrees fails the test unless both trees look the same.
func sameTrees(t *testing.T, want, have string) {
	t.Helper()
	w, h := snapshot(t, want), snapshot(t, have)
	bad := 0
	for path, d := range w {
		if h[path] != d {
			t.Errorf("%.300q\n is    %s\n must be %s", path, h[path], d)
			bad++
		}
		if bad == 10 {
			t.Fatal("and more")
		}
	}
	for path := range h {
		if _, ok := w[path]; !ok {
			t.Errorf("%.300q is too much", path)
		}
	}
}

// allocatedIn returns the bytes that the regular files of a tree take.
func allocatedIn(t *testing.T, root string) int64 {
	t.Helper()
	sc, err := walk(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[inode]bool{}
	sum := int64(0)
	for _, e := range sc.entries {
		if e.kind == regular && !seen[e.id] {
			seen[e.id] = true
			sum += allocated(&e.stat)
		}
	}
	return sum
}

// null is the one device that the tests' trees may have.
var null = Device{Major: 1, Minor: 3}

func openStage(t *testing.T, path string, kind Kind) *Stage {
	t.Helper()
	p := Place{Path: path, ID: testID}
	s, err := p.Open(StageOptions{Kind: kind, Limits: Limits{Bytes: 1 << 32, Entries: 1 << 20}, Devices: []Device{null}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// pass sends one pass and applies it.
func pass(t *testing.T, from *Sender, to *Stage, o PassOptions) Stats {
	t.Helper()
	var b bytes.Buffer
	st, err := from.Pass(t.Context(), &b, o)
	if err != nil {
		t.Fatal(err)
	}
	a, err := to.Apply(t.Context(), &b)
	if err != nil {
		t.Fatal(err)
	}
	if b.Len() > 0 || a.Final != o.Final || a.Data != st.Data || int(a.Steps) != st.Changes {
		t.Fatalf("applied %+v of %+v, %d bytes are left", a, st, b.Len())
	}
	if err := from.Settle(to.Position()); err != nil {
		t.Fatal(err)
	}
	return st
}

// shaker makes and changes a tree at random.
type shaker struct {
	*rand.Rand
	root    string
	paths   []string // that were once made, relative
	changes atomic.Int64
}

func newShaker(root string, seed uint64) *shaker {
	return &shaker{Rand: rand.New(rand.NewPCG(seed, 1)), root: root, paths: []string{"."}}
}

func (s *shaker) any() string { return filepath.Join(s.root, s.paths[s.IntN(len(s.paths))]) }

// fresh returns the path of a name that may not be there yet.
func (s *shaker) fresh() string {
	dir := s.paths[s.IntN(len(s.paths))]
	names := []string{"a", "b", "c.d", "c-d", "c", "new\nline", "\xff\xfe not utf-8", "späte", strings.Repeat("n", 255), "-rf", " "}
	name := names[s.IntN(len(names))]
	if s.IntN(2) == 0 {
		name = fmt.Sprint(s.IntN(100))
	}
	p := filepath.Join(dir, name)
	if strings.Count(p, "/") > 8 {
		p = name
	}
	s.paths = append(s.paths, p)
	return filepath.Join(s.root, p)
}

// shake does one thing; that some do not work is no matter.
func (s *shaker) shake() {
	s.changes.Add(1)
	switch n := s.IntN(100); {
	case n < 20:
		s.write(s.fresh())
	case n < 30:
		os.Mkdir(s.fresh(), 0o755)
	case n < 34:
		os.Symlink(s.any(), s.fresh())
	case n < 36:
		unix.Mkfifo(s.fresh(), 0o640)
	case n < 38:
		unix.Mknod(s.fresh(), unix.S_IFCHR|0o600, int(unix.Mkdev(null.Major, null.Minor)))
	case n < 44:
		os.Link(s.any(), s.fresh())
	case n < 52:
		os.Rename(s.any(), s.fresh())
	case n < 55:
		os.Rename(s.any(), s.any())
	case n < 59:
		unix.Unlink(s.any())
	case n < 61:
		p := s.any()
		if _, err := os.Lstat(p); err == nil && p != s.root { // RemoveAll waits for ever below a pipe
			os.RemoveAll(p)
		}
	case n < 80:
		s.patch(s.any())
	default:
		s.attribute(s.any())
	}
}

func (s *shaker) write(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	b := make([]byte, s.IntN(3)*s.IntN(60000)+s.IntN(100))
	for i := range b {
		b[i] = byte(s.Uint32() % 7)
	}
	f.WriteAt(b, int64(s.IntN(2)*s.IntN(3)*100000)) // a hole in front, sometimes
}

func (s *shaker) patch(path string) {
	if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	switch s.IntN(5) {
	case 0:
		f.Truncate(int64(s.IntN(500000)))
	case 1:
		unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(s.IntN(80))*4096, int64(1+s.IntN(60))*4096)
	default:
		f.WriteAt([]byte(fmt.Sprint(s.Uint64())), int64(s.IntN(400000)))
	}
}

func (s *shaker) attribute(path string) {
	switch s.IntN(7) {
	case 0:
		if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSymlink == 0 {
			os.Chmod(path, os.FileMode(s.IntN(0o1000)))
			unix.Chmod(path, uint32(s.IntN(0o10000)))
		}
	case 1:
		os.Lchown(path, s.IntN(3), s.IntN(70000))
	case 2:
		ts := []unix.Timespec{{Sec: 1}, {Sec: int64(s.IntN(2e9)) - 5, Nsec: int64(s.IntN(1e9))}}
		unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
	case 3:
		unix.Lsetxattr(path, fmt.Sprintf("user.%d", s.IntN(4)), []byte(strings.Repeat("x\x00", s.IntN(300))), 0)
	case 4:
		unix.Lremovexattr(path, fmt.Sprintf("user.%d", s.IntN(4)))
	case 5:
		name := []string{"system.posix_acl_access", "system.posix_acl_default"}[s.IntN(2)]
		unix.Lsetxattr(path, name, someACL(uint16(s.IntN(8))), 0)
	case 6:
		// vfs_cap_data, revision 2: cap_net_bind_service, permitted and effective
		unix.Lsetxattr(path, "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0)
	}
}

// someACL is an ACL as acl(5) lays it out: owner, a user, group, mask, others.
func someACL(perm uint16) []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, 0xffffffff}, {2, perm, 1000}, {4, 4, 0xffffffff}, {0x10, 7, 0xffffffff}, {0x20, 4, 0xffffffff}} {
		b = append(b, byte(e.tag), byte(e.tag>>8), byte(e.perm), byte(e.perm>>8), byte(e.id), byte(e.id>>8), byte(e.id>>16), byte(e.id>>24))
	}
	return b
}

// whileShaking runs f while a goroutine changes the tree, and returns when that is over.
func (s *shaker) whileShaking(ctx context.Context, f func()) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			s.shake()
		}
	}()
	defer func() {
		stop()
		<-done
		slices.Sort(s.paths)
		s.paths = slices.Compact(s.paths)
	}()
	before := s.changes.Load()
	for s.changes.Load() < before+20 {
		unix.Nanosleep(&unix.Timespec{Nsec: 1e5}, nil)
	}
	f()
}
