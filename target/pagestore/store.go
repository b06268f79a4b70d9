// Package pagestore keeps the newest content of every page of a workload on
// the target, in files that lie in memory, and turns them into images that
// CRIU restores from.
//
// The first round fixes a layout: base/, with each image's pages in ascending
// order. Later rounds overwrite it in place, and put pages that it has no room
// for into a side file. The final round lists every page that exists, in
// ascending order; [Store.Finish] then writes pagemaps, and copies nothing:
//
//   - Pages that are in base/ are "in the parent".
//   - Of a store for a lazy restore, pages that CRIU may restore lazily are
//     only named. They stay where they are, and a map (internal/lazymap) tells
//     the supervisor where that is.
//   - All others lie in a new pages file, which grows with the list.
//
// Every batch comes from a peer: addresses, order, references and amounts are
// checked, and no file grows beyond the limit given to [New] and what was granted
// on top of it.
package pagestore

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"migrate/criu"
	"migrate/internal/lazymap"
	"migrate/transport"
)

// ErrFull means that the peer sent more than the reserved amount.
var ErrFull = errors.New("more pages than were reserved")

var errNoMore = errors.New("there is no more")

// Store receives the pages of one migration. Its methods must be called from
// one goroutine at a time, except for Pages.
type Store struct {
	dir      string
	limit    uint64 // pages
	more     More
	lazy     bool
	used     atomic.Uint64 // pages in all files
	verified uint64
	images   map[key]*image
	nextID   uint32
	page     [pageSize]byte // being worked on
}

type key struct {
	kind uint8
	id   uint64
}

// More is asked for at least so many bytes beyond the limit, and returns by how
// many it rises, or why it cannot.
type More func(bytes uint64) (uint64, error)

// New prepares dir, which must exist and be empty, for limit bytes. When they are
// used up, more is asked; nil has none. lazy says how the workload will be
// restored.
func New(dir string, limit uint64, lazy bool, more More) (*Store, error) {
	for _, d := range []string{baseDir, ImagesDir} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	return &Store{dir: dir, limit: limit / pageSize, more: more, lazy: lazy, images: map[key]*image{}}, nil
}

// Names inside a store: CRIU restores from ImagesDir.
const (
	baseDir   = "base"
	ImagesDir = "images"
	lazyMap   = "lazy.map"
)

// Images returns the directory that CRIU restores from.
func (s *Store) Images() string { return filepath.Join(s.dir, ImagesDir) }

// LazyMap returns the file that tells where the lazily restored pages lie. It
// exists once a store for a lazy restore is finished.
func (s *Store) LazyMap() string { return filepath.Join(s.dir, lazyMap) }

// Finish writes the pagemaps, after the last final batch. What it does grows
// with the number of ranges of pages, not with that of pages.
func (s *Store) Finish() error {
	parent := false
	for _, im := range s.images {
		used, err := im.finish(s.dir)
		if err != nil {
			return err
		}
		parent = parent || used
	}
	if s.lazy {
		if err := s.writeLazyMap(); err != nil {
			return err
		}
	}
	if !parent {
		return nil
	}
	return os.Symlink("../"+baseDir, filepath.Join(s.Images(), "parent"))
}

func (s *Store) writeLazyMap() error {
	var m lazymap.Map
	for _, im := range s.sorted() {
		im.addLazy(&m)
	}
	return lazymap.Write(s.LazyMap(), m)
}

// Unlist forgets what has come of the final list, and reports whether anything
// had: the source sends it anew. Of pages that were listed the store may have
// any content now, or none.
func (s *Store) Unlist() (begun bool, err error) {
	for _, im := range s.images {
		begun = begun || len(im.final) > 0
		im.final = nil
		s.used.Add(-im.files[inFinal].slots)
		err = errors.Join(err, im.files[inFinal].empty())
	}
	return begun, err
}

// sorted returns the images, tasks first, by their numbers.
func (s *Store) sorted() []*image {
	var out []*image
	for _, im := range s.images {
		out = append(out, im)
	}
	slices.SortFunc(out, func(a, b *image) int {
		return cmp.Or(cmp.Compare(a.id.Type, b.id.Type), cmp.Compare(a.id.ID, b.id.ID))
	})
	return out
}

// Pages returns the number of pages stored, over all rounds.
func (s *Store) Pages() uint64 { return s.used.Load() }

// Verified returns the number of pages that were compared with the frozen
// source.
func (s *Store) Verified() uint64 { return s.verified }

// Close closes every file; it does not remove them.
func (s *Store) Close() error {
	var errs []error
	for _, im := range s.images {
		errs = append(errs, im.close())
	}
	return errors.Join(errs...)
}

// maxImages bounds the open files that a peer can make us hold.
const maxImages = 1 << 16

// image finds or opens the files of the image that p belongs to.
func (s *Store) image(p transport.Piece) (*image, error) {
	k := key{p.ImageType, p.Image}
	if im := s.images[k]; im != nil {
		return im, nil
	}
	if len(s.images) >= maxImages {
		return nil, fmt.Errorf("more than %d images", maxImages)
	}
	s.nextID++
	im, err := newImage(s.dir, criu.PageImage{Type: criu.ImageType(p.ImageType), ID: p.Image}, s.nextID)
	if err != nil {
		return nil, err
	}
	s.images[k] = im
	return im, nil
}

func (s *Store) reserve(pages uint64) error {
	if err := s.within(s.used.Load() + pages); err != nil {
		return err
	}
	s.used.Add(pages)
	return nil
}

// within sees that so many pages are within the limit.
func (s *Store) within(pages uint64) error {
	if pages <= s.limit {
		return nil
	}
	var granted uint64
	err := errNoMore
	if s.more != nil {
		granted, err = s.more((pages - s.limit) * pageSize)
	}
	if err != nil {
		return fmt.Errorf("%w: %d MiB, where %d MiB are needed: %w", ErrFull, s.limit*pageSize>>20, mib(pages), err)
	}
	s.limit += granted / pageSize
	return nil
}

// mib rounds up.
func mib(pages uint64) uint64 { return (pages*pageSize + 1<<20 - 1) >> 20 }
