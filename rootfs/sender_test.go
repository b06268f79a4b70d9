package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a source directory with a sender and a stage.
type pair struct {
	src, place string
	from       *Sender
	to         *Stage
}

func newPair(t *testing.T, dir string, kind Kind) pair {
	t.Helper()
	p := pair{src: dir + "/src", place: dir + "/place"}
	if err := os.MkdirAll(p.src, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.from, err = NewSender(p.src, kind); err != nil {
		t.Fatal(err)
	}
	p.to = openStage(t, p.place, kind)
	return p
}

func (p pair) same(t *testing.T) {
	t.Helper()
	sameTrees(t, p.src, p.to.Place().Tree())
}

// writeBig writes n blocks that differ from each other.
func writeBig(t *testing.T, path string, n int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range n {
		if _, err := f.Write(bytes.Repeat(fmt.Appendf(nil, "%08d", i), blockSize/8)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOnlyWhatChangedIsSent bounds what passes send.
func TestOnlyWhatChangedIsSent(t *testing.T) {
	p := newPair(t, t.TempDir(), Plain)
	big := p.src + "/big"
	writeBig(t, big, 30)
	pass(t, p.from, p.to, PassOptions{})
	for _, step := range []struct {
		name, script string
		data         int64
	}{
		{"nothing", "", 0},
		{"one block", "printf changed | dd of=big bs=1 seek=1000000 conv=notrunc", blockSize},
		{"touched", "touch big", 0},
		{"renamed", "mv big bigger; mkdir d; mv bigger d/", 0},
		{"linked", "ln d/bigger aaa; ln aaa d/zzz", 0},
		{"old names go", "rm d/bigger; chmod 640 aaa", 0},
		{"hole", "fallocate -p -o 262144 -l 524288 aaa", 0},
		{"shorter", "truncate -s 3000000 aaa", 3000000 % blockSize},
		{"longer by a hole", "truncate -s 9000000 aaa", blockSize},
		{"appended", "echo more >>aaa", blockSize},
		{"replaced by itself", "cp -a aaa copy; mv copy aaa", 3 << 20},
	} {
		shell(t, p.src, step.script)
		st := pass(t, p.from, p.to, PassOptions{})
		p.same(t)
		if st.Data > step.data {
			t.Errorf("%s: %d bytes of content sent, want at most %d", step.name, st.Data, step.data)
		}
	}
}

// TestMappedFiles changes files through mappings in the ways that leave no trace in their
// times.
func TestMappedFiles(t *testing.T) {
	p := newPair(t, t.TempDir(), Plain)
	m := mapFile(t, p.src+"/mapped")
	m[0] = 1 // from now on the page may be written without a fault
	waitUntilSettled(t, p.src+"/mapped")
	used := func(context.Context) ([]Used, error) {
		return []Used{{Path: "mapped", Mapped: true}, {Path: "not/there"}}, nil
	}
	pass(t, p.from, p.to, PassOptions{Used: used})
	before := statOf(t, p.src+"/mapped").ctime
	m[1] = 2
	if statOf(t, p.src+"/mapped").ctime != before {
		t.Fatal("the test is no good: the times tell")
	}
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	none := func(context.Context) ([]Used, error) { return nil, nil }
	pass(t, p.from, p.to, PassOptions{Final: true, Used: none})
	p.same(t)
	if st := pass(t, p.from, p.to, PassOptions{Final: true, Used: none}); st.Read != 0 {
		t.Errorf("%d bytes are read again of a file that nobody uses", st.Read)
	}
}

// TestAnyFileInUse changes a mapped file of which it is not known by which name.
func TestAnyFileInUse(t *testing.T) {
	p := newPair(t, t.TempDir(), Plain)
	m := mapFile(t, p.src+"/mapped")
	m[0] = 1
	waitUntilSettled(t, p.src+"/mapped")
	used := func(context.Context) ([]Used, error) { return []Used{{Mapped: true}}, nil }
	pass(t, p.from, p.to, PassOptions{Used: used})
	m[1] = 2
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	pass(t, p.from, p.to, PassOptions{Final: true, Used: used})
	p.same(t)
}

// TestTmpfs changes a file on tmpfs, where a mapping never changes a file's times.
func TestTmpfs(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	p := newPair(t, dir, Plain)
	m := mapFile(t, p.src+"/mapped")
	waitUntilSettled(t, p.src+"/mapped")
	pass(t, p.from, p.to, PassOptions{})
	m[1] = m[0] + 2
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	pass(t, p.from, p.to, PassOptions{Final: true})
	p.same(t)
}

func mapFile(t *testing.T, path string) []byte {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func statOf(t *testing.T, path string) stat {
	t.Helper()
	st, _, err := statAt(unix.AT_FDCWD, path)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// waitUntilSettled waits until a file's times are old enough to be trusted.
func waitUntilSettled(t *testing.T, path string) {
	t.Helper()
	c := statOf(t, path).ctime
	time.Sleep(time.Until(time.Unix(c.sec, int64(c.nsec)).Add(settledAfter + 50*time.Millisecond)))
}

// TestReuse moves a tree to where an older copy of it is: what is equal is not sent,
// and the old copy stays as it is.
func TestReuse(t *testing.T) {
	p := newPair(t, t.TempDir(), Plain)
	writeBig(t, p.src+"/big", 60)
	shell(t, p.src, "truncate -s 5m sparse; printf data | dd of=sparse bs=1 seek=1000000 conv=notrunc; mkdir d; cp big d/gone; cp big d/same")
	shell(t, p.src, "cp -a . "+p.place)
	shell(t, p.src, "printf changed | dd of=big bs=1 seek=5000000 conv=notrunc; rm d/gone; chmod 600 d/same")
	before := snapshot(t, p.place)
	var offer, stream bytes.Buffer
	if err := p.to.Offer(t.Context(), &offer); err != nil {
		t.Fatal(err)
	}
	if err := p.from.Offered(t.Context(), &offer); err != nil {
		t.Fatal(err)
	}
	st, err := p.from.Pass(t.Context(), &stream, PassOptions{Final: true})
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.to.Apply(t.Context(), &stream)
	if err != nil {
		t.Fatal(err)
	}
	if st.Data != blockSize || a.Reused != st.Reused || a.Reused < 119*blockSize {
		t.Errorf("sent %+v, applied %+v, want one block sent and 119 reused", st, a)
	}
	p.same(t)
	sameNames(t, before, snapshot(t, p.place))
}

// TestReuseIsChecked offers what is not there any more.
func TestReuseIsChecked(t *testing.T) {
	p := newPair(t, t.TempDir(), Plain)
	writeBig(t, p.src+"/big", 3)
	shell(t, p.src, "cp -a . "+p.place)
	var offer, stream bytes.Buffer
	if err := errors.Join(p.to.Offer(t.Context(), &offer), p.from.Offered(t.Context(), &offer)); err != nil {
		t.Fatal(err)
	}
	shell(t, p.place, "printf changed | dd of=big bs=1 seek=200000 conv=notrunc")
	if _, err := p.from.Pass(t.Context(), &stream, PassOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.to.Apply(t.Context(), &stream); !errors.Is(err, ErrRefused) {
		t.Fatalf("Apply = %v, want a refusal", err)
	}
	if err := p.from.Settle(p.to.Position()); err != nil {
		t.Fatal(err)
	}
	pass(t, p.from, p.to, PassOptions{Final: true})
	p.same(t)
}

// TestFinalPassNoticesChanges writes to the tree during a final pass.
func TestFinalPassNoticesChanges(t *testing.T) {
	p := newPair(t, t.TempDir(), Plain)
	for i := range 200 {
		writeBig(t, fmt.Sprintf("%s/f%d", p.src, i), 1)
	}
	w := writerFunc(func(b []byte) (int, error) { // the first frames are on their way
		return len(b), os.WriteFile(p.src+"/f99", []byte("changed"), 0o644)
	})
	if _, err := p.from.Pass(t.Context(), w, PassOptions{Final: true}); !errors.Is(err, ErrChanging) {
		t.Errorf("Pass = %v, want %v", err, ErrChanging)
	}
	if _, err := p.from.Pass(t.Context(), w, PassOptions{Final: true}); err == nil {
		t.Error("a pass that is not settled is followed by another")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestPassEnds(t *testing.T) {
	p := newPair(t, t.TempDir(), Plain)
	shell(t, p.src, "echo x >x; mkdir mount")
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("because")
	cancel(why)
	if _, err := p.from.Pass(ctx, new(bytes.Buffer), PassOptions{}); !errors.Is(err, why) {
		t.Errorf("Pass = %v, want the context's cause", err)
	}
	if _, err := p.to.Apply(ctx, new(bytes.Buffer)); err == nil {
		t.Error("Apply of nothing works")
	}
	if err := p.from.Settle(Position{Pass: 9}); !errors.Is(err, ErrRefused) {
		t.Errorf("Settle at a pass never sent: %v", err)
	}
	if err := p.from.Settle(Position{}); err != nil {
		t.Error(err)
	}
	full := writerFunc(func([]byte) (int, error) { return 0, why })
	if _, err := p.from.Pass(t.Context(), full, PassOptions{}); !errors.Is(err, why) {
		t.Errorf("Pass = %v, want the writer's error", err)
	}
	if err := p.from.Settle(Position{}); err != nil {
		t.Error(err)
	}
	if err := unix.Mount("tmpfs", p.src+"/mount", "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(p.src+"/mount", 0)
	if _, err := p.from.Pass(t.Context(), new(bytes.Buffer), PassOptions{}); !errors.Is(err, ErrMount) {
		t.Errorf("Pass = %v, want %v", err, ErrMount)
	}
	if c, err := Survey(t.Context(), p.src, Plain); err != nil || len(c.Blockers) != 1 || c.Blockers[0].Code != CodeMountInside {
		t.Errorf("Survey = %+v, %v, want %s", c, err, CodeMountInside)
	}
}

// TestTooDeep wants a clear error and not an end of file descriptors.
func TestTooDeep(t *testing.T) {
	p := newPair(t, t.TempDir(), Plain)
	makeChain(t, p.src, "d", MaxDepth+1)
	if _, err := p.from.Pass(t.Context(), new(bytes.Buffer), PassOptions{}); !errors.Is(err, ErrDeep) {
		t.Errorf("Pass = %v, want %v", err, ErrDeep)
	}
}

func TestFull(t *testing.T) {
	for _, tt := range []struct{ name, options, script, what string }{
		{"space", "size=1m", "head -c 3000000 /dev/urandom >big", FullSpace},
		{"inodes", "size=4m,nr_inodes=20", "for i in $(seq 40); do echo >$i; done", FullInodes},
		{"bytes", "size=32m", "head -c 9000000 /dev/urandom >big", FullLimit},
		{"entries", "size=32m", "for i in $(seq 101); do echo >$i; done", FullCount},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			shell(t, dir, "mkdir src at; cd src; "+tt.script)
			if err := unix.Mount("tmpfs", dir+"/at", "tmpfs", 0, tt.options); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(dir+"/at", unix.MNT_DETACH)
			place := Place{Path: dir + "/at/place", ID: testID}
			to, err := place.Open(StageOptions{Kind: Plain, Limits: Limits{Bytes: 8 << 20, Entries: 100}})
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			from, err := NewSender(dir+"/src", Plain)
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if _, err := from.Pass(t.Context(), &b, PassOptions{}); err != nil {
				t.Fatal(err)
			}
			_, err = to.Apply(t.Context(), &b)
			full, ok := errors.AsType[*FullError](err)
			if !ok || full.What != tt.what || !strings.Contains(err.Error(), place.Staging()) {
				t.Errorf("Apply = %v, want full: %s", err, tt.what)
			}
			if err := place.Discard(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLimitCountsWhatIsThere overwrites a file more often than its limit has room for.
func TestLimitCountsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir src")
	place := Place{Path: dir + "/place", ID: testID}
	to, err := place.Open(StageOptions{Kind: Plain, Limits: Limits{Bytes: 4 << 20, Entries: 10}})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	from, err := NewSender(dir+"/src", Plain)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		shell(t, dir+"/src", "head -c 3000000 /dev/urandom | dd of=f conv=notrunc; rm -f other")
		pass(t, from, to, PassOptions{})
		shell(t, dir+"/src", "head -c 500000 /dev/urandom >other")
		pass(t, from, to, PassOptions{})
	}
}
