// Package pagestore keeps the newest content of every page of a workload on
// the target, in files that lie in memory, and turns them into images that
// CRIU restores from.
//
// The first round fixes a layout: base/, with each image's pages in ascending
// order. Later rounds overwrite it in place, and put pages that it has no room
// for into a side file. The final round lists every page that exists, in
// ascending order; [Store.Finish] then writes pagemaps in which pages of base/
// are "in the parent" and all others lie in a new pages file, so that no page
// is copied inside the downtime but those that came late. Without earlier
// rounds the final pages are simply appended, and there is no base.
//
// Every batch comes from a peer: addresses, order and amounts are checked, and
// no file grows beyond the limit given to [New].
package pagestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"migrate/criu"
	"migrate/transport"
)

// ErrFull means that the peer sent more than the reserved amount.
var ErrFull = errors.New("more pages than were reserved")

// Store receives the pages of one migration. Its methods must be called from
// one goroutine at a time.
type Store struct {
	dir    string
	limit  uint64 // pages
	used   uint64 // pages in all files
	images map[key]*image
	nextID uint32
}

type key struct {
	kind uint8
	id   uint64
}

// New prepares dir, which must exist and be empty, for at most limit bytes.
func New(dir string, limit uint64) (*Store, error) {
	for _, d := range []string{baseDir, ImagesDir} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	return &Store{dir: dir, limit: limit / pageSize, images: map[key]*image{}}, nil
}

// Names of the directories inside a store: CRIU restores from ImagesDir.
const (
	baseDir   = "base"
	ImagesDir = "images"
)

// Images returns the directory that CRIU restores from.
func (s *Store) Images() string { return filepath.Join(s.dir, ImagesDir) }

// Apply stores one batch. Pieces of the final list carry the flags of CRIU's
// pagemap, which are never 0 for a page with content; earlier rounds have none.
func (s *Store) Apply(b *transport.Batch) error {
	data := b.Data
	for _, p := range b.Pieces {
		im, err := s.image(p)
		if err != nil {
			return err
		}
		var content []byte
		if p.Kind == transport.PieceData {
			content, data = data[:int(p.Pages)*pageSize], data[int(p.Pages)*pageSize:]
		}
		if err := s.apply(im, p, content, b.Round); err != nil {
			return fmt.Errorf("image %d/%d: %w", p.ImageType, p.Image, err)
		}
	}
	return nil
}

// image finds or opens the files of the image that p belongs to.
func (s *Store) image(p transport.Piece) (*image, error) {
	if p.Address%pageSize != 0 || p.Address+uint64(p.Pages)*pageSize < p.Address {
		return nil, fmt.Errorf("pages at %#x: bad address", p.Address)
	}
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

// maxImages bounds the open files that a peer can make us hold.
const maxImages = 1 << 16

func (s *Store) apply(im *image, p transport.Piece, content []byte, round uint32) error {
	switch {
	case p.Flags != 0:
		return s.applyFinal(im, p, content)
	case p.Kind == transport.PieceHave:
		return nil
	}
	for _, q := range im.base.parts(p.Address, uint64(p.Pages)) {
		part := cut(content, p.Address, q)
		if err := s.applyEarly(im, q, part, round); err != nil {
			return err
		}
	}
	return nil
}

// applyEarly stores a part of an earlier round: over what base/ has, behind
// it in the first round, or in the side file.
func (s *Store) applyEarly(im *image, q part, content []byte, round uint32) error {
	if q.found {
		return im.baseFile.put(q.slot, q.pages, content)
	}
	if round <= 1 && im.base.fits(q.address) {
		return s.grow(&im.baseFile, &im.base, q, content)
	}
	for _, r := range im.side.parts(q.address, q.pages) {
		c := cut(content, q.address, r)
		if r.found {
			if err := im.sideFile.put(r.slot, r.pages, c); err != nil {
				return err
			}
			continue
		}
		if err := s.reserve(r.pages); err != nil {
			return err
		}
		slot, err := im.sideFile.append(r.pages, c)
		if err != nil {
			return err
		}
		im.side.insert(r.address, r.pages, slot)
	}
	return nil
}

func (x index) fits(address uint64) bool {
	return len(x) == 0 || x[len(x)-1].end() <= address
}

func (s *Store) grow(f *pagesFile, x *index, q part, content []byte) error {
	if err := s.reserve(q.pages); err != nil {
		return err
	}
	slot, err := f.append(q.pages, content)
	if err != nil {
		return err
	}
	return x.add(q.address, q.pages, slot)
}

func (s *Store) reserve(pages uint64) error {
	if s.used+pages > s.limit {
		return ErrFull
	}
	s.used += pages
	return nil
}

// applyFinal stores a part of the final list and notes where it lies.
func (s *Store) applyFinal(im *image, p transport.Piece, content []byte) error {
	if err := im.checkOrder(p.Address, uint64(p.Pages)); err != nil {
		return err
	}
	for _, q := range im.base.parts(p.Address, uint64(p.Pages)) {
		if q.found {
			if p.Kind != transport.PieceHave {
				if err := im.baseFile.put(q.slot, q.pages, cut(content, p.Address, q)); err != nil {
					return err
				}
			}
			im.list(q.address, q.pages, criu.PageFlags(p.Flags)&^criu.PagePresent|criu.PageParent)
			continue
		}
		if err := s.applyNew(im, p, q, content); err != nil {
			return err
		}
	}
	return nil
}

// applyNew stores pages that base/ does not hold.
func (s *Store) applyNew(im *image, p transport.Piece, q part, content []byte) error {
	flags := criu.PageFlags(p.Flags) | criu.PagePresent
	if p.Kind != transport.PieceHave {
		if err := s.reserve(q.pages); err != nil {
			return err
		}
		im.list(q.address, q.pages, flags)
		_, err := im.finalFile.append(q.pages, cut(content, p.Address, q))
		return err
	}
	for _, r := range im.side.parts(q.address, q.pages) {
		if !r.found {
			return fmt.Errorf("page %#x is said to be here, and is not", r.address)
		}
		if err := s.reserve(r.pages); err != nil {
			return err
		}
		if err := im.finalFile.copyFrom(&im.sideFile, r.slot, r.pages); err != nil {
			return err
		}
		im.list(r.address, r.pages, flags)
	}
	return nil
}

// cut returns the bytes of q out of content, which begins at address. Zero
// pages have no content.
func cut(content []byte, address uint64, q part) []byte {
	if content == nil {
		return nil
	}
	from := q.address - address
	return content[from : from+q.pages*pageSize]
}

// Finish writes the pagemaps, after the last final batch.
func (s *Store) Finish() error {
	parent := false
	for _, im := range s.images {
		used, err := im.finish(s.dir)
		if err != nil {
			return err
		}
		parent = parent || used
	}
	if !parent {
		return nil
	}
	return os.Symlink("../"+baseDir, filepath.Join(s.Images(), "parent"))
}

// Pages returns the number of pages stored, over all rounds.
func (s *Store) Pages() uint64 { return s.used }

// Close closes every file; it does not remove them.
func (s *Store) Close() error {
	var errs []error
	for _, im := range s.images {
		errs = append(errs, im.close())
	}
	return errors.Join(errs...)
}
