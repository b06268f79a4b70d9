package criutest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/criu"
)

// lister is a page sink that reads what is only listed from the frozen tasks.
type lister struct {
	Memory
	cgroup string
	listed uint64 // pages
	lazy   map[uint64]criu.LazyPages
}

func (l *lister) Open(img criu.PageImage) (bool, error) {
	_, err := l.Memory.Open(img)
	return img.Type == criu.TaskImage, err
}

func (l *lister) Extent(e criu.Extent, r io.Reader) error {
	if e.Flags != criu.PageParent {
		return l.Memory.Extent(e, r)
	}
	pid, err := l.find(e.Image.ID)
	if err != nil {
		return err
	}
	l.listed += e.Pages
	for e.Pages > 0 {
		n, lazy := l.lazy[e.Image.ID].Cut(e.Address, e.Pages)
		piece := criu.Extent{Image: e.Image, Address: e.Address, Pages: n, Flags: criu.PagePresent}
		if lazy {
			piece.Flags |= criu.PageLazy
		}
		if err := l.read(pid, piece); err != nil {
			return err
		}
		e.Address, e.Pages = e.Address+n*criu.PageSize, e.Pages-n
	}
	return nil
}

// read takes pages from a process.
func (l *lister) read(pid int, e criu.Extent) error {
	b := make([]byte, e.Bytes())
	to := []unix.Iovec{{Base: &b[0], Len: e.Bytes()}}
	if n, err := unix.ProcessVMReadv(pid, to, []unix.RemoteIovec{{Base: uintptr(e.Address), Len: len(b)}}, 0); err != nil || n != len(b) {
		return fmt.Errorf("process_vm_readv of %d pages at %#x: %d bytes, %w", e.Pages, e.Address, n, err)
	}
	return l.Memory.Extent(e, bytes.NewReader(b))
}

// frozen is called when all tasks are held and none is infected.
func (l *lister) frozen() error {
	l.lazy = make(map[uint64]criu.LazyPages)
	return l.each(func(pid int, id uint64) (err error) {
		l.lazy[id], err = criu.ReadLazyPages(pid)
		return err
	})
}

// find returns the PID here of the process in the root's cgroup that is id in
// its own PID namespace.
func (l *lister) find(id uint64) (found int, err error) {
	err = l.each(func(pid int, own uint64) error {
		if own == id {
			found = pid
		}
		return nil
	})
	if err == nil && found == 0 {
		err = fmt.Errorf("no process %d", id)
	}
	return found, err
}

// each calls f with every process of the cgroup and its PID in its own namespace.
func (l *lister) each(f func(pid int, own uint64) error) error {
	b, err := os.ReadFile(filepath.Join(l.cgroup, "cgroup.procs"))
	if err != nil {
		return err
	}
	for word := range strings.FieldsSeq(string(b)) {
		status, err := os.ReadFile("/proc/" + word + "/status")
		if err != nil {
			return err
		}
		ids := strings.Fields(field(status, "NSpid:"))
		pid, err := strconv.Atoi(word)
		own, ownErr := strconv.ParseUint(ids[len(ids)-1], 10, 64)
		if err := errors.Join(err, ownErr); err != nil {
			return err
		}
		if err := f(pid, own); err != nil {
			return err
		}
	}
	return nil
}

// list dumps p by listing its pages.
func (s *session) list(p Process, edit func(*criu.DumpOptions), hook criu.HookFunc) (*lister, error) {
	s.Helper()
	ours, theirs, err := criu.PageSocket()
	if err != nil {
		s.Fatal(err)
	}
	c := s.start(criu.ChildOptions{Files: []*os.File{theirs}, Listing: true})
	theirs.Close()
	l := &lister{cgroup: p.Cgroup()}
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- criu.ServePages(ctx, ours, s.e.Tool().Version, l) }()
	o := criu.DumpOptions{PID: p.PID(), ImagesDir: s.dir, PageSocket: new(0)}
	if edit != nil {
		edit(&o)
	}
	err = c.Dump(ctx, o, func(ctx context.Context, ev criu.HookEvent) error {
		if ev.Hook == criu.QueryExtFiles {
			return l.frozen()
		}
		if hook == nil {
			return nil
		}
		return hook(ctx, ev)
	})
	if closeErr := c.Close(); closeErr != nil {
		s.Error(closeErr)
	}
	if serveErr := <-served; err == nil || !errors.Is(err, errOnPurpose) {
		err = errors.Join(err, serveErr)
	}
	return l, err
}

// canList skips a test where the kernel does the real thing.
func canList(t *testing.T, e *realEngine) {
	t.Helper()
	f, err := e.tool.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.MemTrack {
		t.Skip("this machine has soft-dirty tracking, with which pages are not listed")
	}
	if err := e.tool.CanList(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var listed = map[string]struct {
	attr  syscall.SysProcAttr
	flags string
}{
	"tree":          {flags: "--children 2 --kinds"},
	"pid namespace": {attr: syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, flags: "--children 1"},
	"other user":    {attr: syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, flags: "--children 0 --kinds"},
}

// TestRealListing compares what a listing dump and a plain one of the same
// frozen tree say, and restores the tree from the list and what it read itself.
func TestRealListing(t *testing.T) {
	for name, test := range listed {
		t.Run(name, func(t *testing.T) {
			e := NewReal(t).(*realEngine)
			canList(t, e)
			if test.attr.Credential != nil && !has(t, unix.CAP_SYS_RESOURCE) {
				t.Skip("this machine has no CAP_SYS_RESOURCE, without which CRIU dumps no other user's processes")
			}
			s := &session{T: t, e: e, dir: t.TempDir()}
			p := e.startLoad(t, test.attr, "--memory 8 --dirty 3000 "+test.flags)
			s.compareList(p)
			s.dir = t.TempDir()
			l, err := s.list(p, nil, nil)
			if err != nil {
				t.Fatal(describe(err))
			}
			s.wantEnded(p)
			s.wantNoParent()
			if err := l.WriteImages(s.dir); err != nil {
				t.Fatal(err)
			}
			pid, err := s.restore(t.Context(), nil)
			if err != nil {
				t.Fatal(describe(err))
			}
			s.wantAlive(e.Restored(t, p, pid))
		})
	}
}

func has(t *testing.T, capability uint) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	caps, err := strconv.ParseUint(field(b, "CapEff:"), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return caps>>capability&1 != 0
}

// compareList dumps p twice while its cgroup is frozen.
func (s *session) compareList(p Process) {
	s.Helper()
	s.e.Freeze(s, p.Cgroup(), true)
	stay := func(o *criu.DumpOptions) { o.LeaveRunning, o.FreezeCgroup = true, p.Cgroup() }
	plain := &Memory{}
	if err := s.dump(s.Context(), p, plain, stay, nil); err != nil {
		s.Fatal(describe(err))
	}
	s.dir = s.TempDir()
	l, err := s.list(p, stay, nil)
	if err != nil {
		s.Fatal(describe(err))
	}
	s.wantState(p, Stopped)
	s.e.Freeze(s, p.Cgroup(), false)
	s.wantAlive(p)
	if l.listed < 8<<20/criu.PageSize {
		s.Errorf("%d pages were listed, want those of 8 MiB", l.listed)
	}
	samePages(s.T, &l.Memory, plain)
	for _, img := range plain.Images {
		got, want := l.lazyPages(img), plain.lazyPages(img)
		// CRIU 4.2 takes every page for a stack when a thread's stack pointer is
		// at the start of one (is_stack in mem.c).
		if len(want) > 0 && (slices.ContainsFunc(got, func(a uint64) bool { return !slices.Contains(want, a) }) || len(want)-len(got) > maxStack) {
			s.Errorf("%v: %d lazy pages, CRIU has %d, or others", img, len(got), len(want))
		}
	}
}

// maxStack is how many pages the stack of the first thread may have, which is
// lazy for CRIU and not for us.
const maxStack = 64

func (m *Memory) lazyPages(img criu.PageImage) (pages []uint64) {
	for _, e := range m.entries[img] {
		for i := range e.Pages {
			if e.Flags&criu.PageLazy != 0 {
				pages = append(pages, e.Address+i*criu.PageSize)
			}
		}
	}
	return pages
}

// maxRseq is how much of a thread's memory the kernel may write while it is
// frozen: the CPU that it is on, as rseq(2) has it.
const maxRseq = 32

func differing(a, b []byte) (n int) {
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// samePages fails unless both hold the same pages with the same content.
func samePages(t *testing.T, got, want *Memory) {
	t.Helper()
	if !slices.Equal(slices.Sorted(imageNames(got)), slices.Sorted(imageNames(want))) {
		t.Errorf("images %v, want %v", got.Images, want.Images)
	}
	for img, pages := range want.data {
		addresses := slices.Sorted(maps.Keys(pages))
		if !slices.Equal(slices.Sorted(maps.Keys(got.data[img])), addresses) {
			t.Errorf("%v: %d pages, want %d, or others", img, len(got.data[img]), len(pages))
			continue
		}
		for _, a := range addresses {
			if n := differing(got.data[img][a], pages[a]); n > maxRseq {
				t.Errorf("%v: page %#x differs in %d bytes", img, a, n)
			}
		}
	}
}

func imageNames(m *Memory) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, img := range m.Images {
			if !yield(img.String()) {
				return
			}
		}
	}
}

// wantNoParent fails if a restore from the images would look for a parent.
func (s *session) wantNoParent() {
	s.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, "*parent*"))
	if err != nil || len(found) > 0 {
		s.Errorf("left in the images: %v, %v", found, err)
	}
}

func TestRealListingRefused(t *testing.T) {
	e := NewReal(t).(*realEngine)
	canList(t, e)
	for _, at := range []criu.Hook{criu.PreDump, criu.PostDump} {
		s := &session{T: t, e: e, dir: t.TempDir()}
		p := e.startLoad(t, syscall.SysProcAttr{}, "--memory 4")
		_, err := s.list(p, nil, s.at(at, func(criu.HookEvent) error { return errOnPurpose }))
		if !errors.Is(err, errOnPurpose) {
			t.Errorf("Dump refused at %s = %v, want %v", at, err, errOnPurpose)
		}
		s.wantAlive(p)
		s.wantNoParent()
	}
}
