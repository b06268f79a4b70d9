package rootfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// found is a name in a tree and what it stands for.
type found struct {
	path string
	stat
}

// scan is a look at all names of a tree.
type scan struct {
	entries  []found // in the order of paths, the root first, without sockets
	sockets  int
	vanished int      // directories that were gone when they were to be opened
	mounts   []string // paths with something mounted there
	flagged  []string // immutable or append-only files
}

// walkers is how many directories are read at a time. A walk waits for the kernel's
// directory cache more than it computes.
var walkers = max(2, min(8, runtime.NumCPU()))

// listing is a directory's content, with that of its directories.
type listing struct {
	entries []found
	below   []*listing // one for each directory in entries, in their order
}

// walk looks at every name below the directory at path. It reads no content and
// changes nothing. Names that vanish or appear meanwhile may be missing.
func walk(ctx context.Context, path string) (*scan, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	root, _, err := statAt(fd, "")
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("looking at %s: %w", path, err)
	}
	w := walker{root: path, scan: &scan{}}
	w.more.L = &w.mu
	top := &listing{}
	w.todo = []job{{in: newOpenDir(fd), name: ".", into: top}}
	w.open = 1
	var all sync.WaitGroup
	for range walkers {
		all.Go(func() { w.work(ctx) })
	}
	all.Wait()
	for _, j := range w.todo { // after an error
		j.in.release()
	}
	if w.err != nil {
		return nil, fmt.Errorf("walking %s: %w", path, w.err)
	}
	w.scan.entries = make([]found, 0, w.names+1)
	w.scan.entries = append(w.scan.entries, found{"", root})
	w.scan.flatten(top)
	return w.scan, nil
}

func (s *scan) flatten(l *listing) {
	next := 0
	for _, e := range l.entries {
		s.entries = append(s.entries, e)
		if e.kind == directory {
			s.flatten(l.below[next])
			next++
		}
	}
}

// openDir is a directory whose descriptor stays open until the last job that starts
// from it has its own.
type openDir struct {
	fd    int
	users atomic.Int32
}

func newOpenDir(fd int) *openDir {
	d := &openDir{fd: fd}
	d.users.Store(1)
	return d
}

func (d *openDir) release() {
	if d.users.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// job is a directory to read.
type job struct {
	in         *openDir
	name, path string
	depth      int
	into       *listing
}

// walker holds what the goroutines of one walk share.
type walker struct {
	root string

	mu    sync.Mutex
	more  sync.Cond
	todo  []job // the newest first, so that few directories are open
	open  int   // jobs to do or at work
	names int
	err   error // the first
	scan  *scan
}

func (w *walker) work(ctx context.Context) {
	buf := make([]byte, 64<<10)
	for {
		j, ok := w.take()
		if !ok {
			return
		}
		part, jobs, err := w.read(j, buf)
		if err == nil {
			err = context.Cause(ctx)
		}
		w.done(part, jobs, err)
	}
}

func (w *walker) take() (job, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.todo) == 0 && w.open > 0 && w.err == nil {
		w.more.Wait()
	}
	if w.open == 0 || w.err != nil {
		return job{}, false
	}
	j := w.todo[len(w.todo)-1]
	w.todo = w.todo[:len(w.todo)-1]
	return j, true
}

func (w *walker) done(part scan, jobs []job, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = cmp.Or(w.err, err)
	w.todo = append(w.todo, jobs...)
	w.open += len(jobs) - 1
	w.names += len(part.entries)
	w.scan.sockets += part.sockets
	w.scan.vanished += part.vanished
	w.scan.mounts = append(w.scan.mounts, part.mounts...)
	w.scan.flagged = append(w.scan.flagged, part.flagged...)
	w.more.Broadcast()
}

// read reads one directory and returns what was found and what is to be read next.
func (w *walker) read(j job, buf []byte) (part scan, jobs []job, err error) {
	defer j.in.release()
	fd, err := openBeneath(j.in.fd, j.name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if j.path != "" && gone(err) {
		part.vanished++
		return part, nil, nil
	}
	if err != nil {
		return part, nil, fmt.Errorf("opening directory %.200q: %w", j.path, err)
	}
	here := newOpenDir(fd)
	defer here.release()
	names, err := readNames(fd, buf)
	if err != nil {
		return part, nil, fmt.Errorf("reading directory %.200q: %w", j.path, err)
	}
	for _, name := range names {
		if err := part.look(fd, j.path, name); err != nil {
			return part, nil, err
		}
	}
	j.into.entries = part.entries
	for _, e := range part.entries {
		if e.kind != directory {
			continue
		}
		if j.depth == MaxDepth-1 {
			return part, nil, fmt.Errorf("%w: more than %d levels at %.200q", ErrDeep, MaxDepth, e.path)
		}
		l := &listing{}
		j.into.below = append(j.into.below, l)
		if slices.Contains(part.mounts, e.path) {
			continue
		}
		_, base := split(e.path)
		here.users.Add(1)
		jobs = append(jobs, job{here, base, e.path, j.depth + 1, l})
	}
	return part, jobs, nil
}

// look adds a name of a directory, if it is still there.
func (s *scan) look(dirfd int, dir, name string) error {
	path := join(dir, name)
	if dir == "" && strings.HasPrefix(name, probePrefix) {
		return nil // of a peer that looks for shared storage
	}
	st, flags, err := statAt(dirfd, name)
	switch {
	case gone(err):
		return nil
	case err != nil:
		return fmt.Errorf("looking at %.200q: %w", path, err)
	case len(path) > MaxPath:
		return fmt.Errorf("%w: a path of %d bytes", ErrDeep, len(path))
	case st.kind == socket:
		s.sockets++
		return nil
	}
	if flags&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		s.mounts = append(s.mounts, path)
	}
	if flags&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0 {
		s.flagged = append(s.flagged, path)
	}
	s.entries = append(s.entries, found{path, st})
	return nil
}

// readNames returns the names in a directory, sorted.
func readNames(fd int, buf []byte) ([]string, error) {
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ENOENT) { // removed while it is open
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			slices.Sort(names)
			return slices.Compact(names), nil // a name may come twice if the directory changes
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}
