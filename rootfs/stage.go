package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// defaultFileSize is the largest size of a file, holes included, unless Limits say
// otherwise: what ext4 can hold.
const defaultFileSize = 16 << 40

// Limits are what a tree may take on the target.
type Limits struct {
	Bytes    int64 // allocated by regular files; required
	Entries  int64 // names; required
	FileSize int64 // of one file, holes included; 0 means 16 TiB
}

// Device is a device number.
type Device struct {
	Block        bool // else it is a character device
	Major, Minor uint32
}

// StageOptions are those of [Place.Open].
type StageOptions struct {
	Kind    Kind // as the source's; another is refused
	Limits  Limits
	Devices []Device // nodes that the tree may have, besides the whiteouts of an upper layer
}

func (o *StageOptions) check() error {
	if o.Limits.Bytes <= 0 || o.Limits.Entries <= 0 || o.Limits.FileSize < 0 {
		return fmt.Errorf("limits of a staged tree: %+v", o.Limits)
	}
	return o.Kind.check()
}

// Stage is the staging tree of a [Place], and applies passes to it. It is not safe for
// concurrent use.
type Stage struct {
	place   Place
	options StageOptions
	tree    *dirs
	aside   int // descriptor
	at      Position
	bytes   int64 // allocated
	entries int64
}

// Open makes the staging tree, empty. It is an error if there is one already.
func (p Place) Open(o StageOptions) (*Stage, error) {
	if o.Limits.FileSize == 0 {
		o.Limits.FileSize = defaultFileSize
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := p.make(); err != nil {
		return nil, err
	}
	s := &Stage{place: p, options: o, aside: -1}
	var err error
	if s.tree, err = openDirs(p.Tree(), false); err == nil {
		s.aside, err = unix.Open(p.aside(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		s.Close()
		return nil, errors.Join(fmt.Errorf("staging %s: %w", p.Path, err), p.Discard())
	}
	return s, nil
}

// Close gives up the descriptors. The staging tree stays: see [Place.Discard].
func (s *Stage) Close() {
	if s.tree != nil {
		s.tree.close()
	}
	if s.aside >= 0 {
		unix.Close(s.aside)
	}
	s.tree, s.aside = nil, -1
}

// Place returns the place the tree is for.
func (s *Stage) Place() Place { return s.place }

// Position returns how far the stage has come.
func (s *Stage) Position() Position { return s.at }

// Sync writes the tree to the disk, and with it whatever else its file system has not
// yet written. What it returns nil for survives a power cut, the rename of an earlier
// Commit included.
func (s *Stage) Sync() error {
	if err := unix.Syncfs(s.aside); err != nil {
		return full(fmt.Errorf("flushing the files for %s: %w", s.place.Path, err), s.aside, s.place.Staging())
	}
	return nil
}

// Applied says what a pass brought.
type Applied struct {
	Position
	Final   bool  // the source's workload is frozen: the tree is exact
	Data    int64 // bytes of content that came
	Reused  int64 // bytes of content copied from the old tree
	Entries int64 // names in the tree
	Bytes   int64 // allocated by its files
}

// Apply reads one pass from r, up to its end frame and no further, and applies it to the
// staging tree. It reads r in small pieces: buffer it if that costs. While it waits for r
// it does not see ctx end: whoever cancels it also ends r.
//
// After an error the tree is in between two passes; the source may send another one once it
// was told the [Position]. An error that wraps [ErrRefused] is the peer's fault; a
// [*FullError] says what is full.
func (s *Stage) Apply(ctx context.Context, r io.Reader) (Applied, error) {
	a := &application{Stage: s, r: newFrameReader(r), now: -1}
	err := a.run(ctx)
	a.close()
	if e := s.tree.leave(); err == nil {
		err = e
	}
	if e := s.clearAside(); err == nil {
		err = e
	}
	done := Applied{s.at, a.final, int64(a.totals.data), a.reused, s.entries, s.bytes}
	if err != nil {
		err = full(err, s.aside, s.place.Staging())
		return done, fmt.Errorf("receiving the files for %s: %w", s.place.Path, err)
	}
	return done, nil
}

// clearAside removes files that lost their name and got no other.
func (s *Stage) clearAside() error {
	dir, err := os.Open(s.place.aside())
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if err := s.unlink(s.aside, name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// unlink removes a name, of a file or an empty directory, if it is there.
func (s *Stage) unlink(dirfd int, name string) error {
	st, _, err := statAt(dirfd, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	flags := 0
	if st.kind == directory {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(dirfd, name, flags); err != nil {
		return err
	}
	s.entries--
	if st.kind == regular && st.nlink == 1 {
		s.bytes -= allocated(&st)
	}
	return nil
}

// allocated returns what a file takes, in bytes, without what a file system
// allocates ahead of it.
func allocated(st *stat) int64 {
	const page = 4096
	return min(int64(st.blocks)*512, (st.size+page-1)&^(page-1))
}
