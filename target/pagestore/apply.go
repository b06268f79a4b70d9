package pagestore

import (
	"fmt"

	"migrate/criu"
	"migrate/transport"
)

// Apply stores one batch, in the order of its pieces. Pieces of the final list
// carry the flags of CRIU's pagemap, which are never 0 for a page that exists;
// those of earlier rounds have none. After an error the store is of no use.
func (s *Store) Apply(b *transport.Batch) error {
	for p, content := range b.All() {
		if err := s.apply(p, content); err != nil {
			return fmt.Errorf("image %d/%d: %w", p.ImageType, p.Image, err)
		}
	}
	return nil
}

func (s *Store) apply(p transport.Piece, content []byte) error {
	if p.Address%pageSize != 0 || p.Address+uint64(p.Pages)*pageSize < p.Address {
		return fmt.Errorf("pages at %#x: bad address", p.Address)
	}
	if err := s.within(uint64(p.Pages)); err != nil {
		return err // before anything is done page by page
	}
	switch p.Kind {
	case transport.PieceData, transport.PieceZero, transport.PieceHave:
		return s.store(p, content)
	case transport.PieceDelta:
		return s.patch(p, content)
	case transport.PieceCopy:
		return s.copy(p, content)
	case transport.PieceSum:
		return s.verify(p, content)
	}
	return fmt.Errorf("unknown kind %d", p.Kind)
}

// patch stores a page that is told of by its difference to what is here.
func (s *Store) patch(p transport.Piece, delta []byte) error {
	page, err := s.read(key{p.ImageType, p.Image}, p.Address)
	if err != nil {
		return fmt.Errorf("a difference: %w", err)
	}
	if err := transport.ApplyDelta(page, delta); err != nil {
		return fmt.Errorf("page %#x: %w", p.Address, err)
	}
	p.Kind = transport.PieceData
	return s.store(p, page)
}

// copy stores pages that equal others, one after the other: each may be the
// origin of the next.
func (s *Store) copy(p transport.Piece, content []byte) error {
	ref, err := transport.ParseRef(content)
	if err != nil {
		return err
	}
	one := p
	one.Kind, one.Pages = transport.PieceData, 1
	for i := range uint64(p.Pages) {
		page, err := s.read(key{ref.ImageType, ref.Image}, ref.Address+i*pageSize)
		if err != nil {
			return fmt.Errorf("page %#x equals another: %w", one.Address, err)
		}
		if err := s.store(one, page); err != nil {
			return err
		}
		one.Address += pageSize
	}
	return nil
}

// read returns the newest content of a page, until the next call.
func (s *Store) read(k key, address uint64) ([]byte, error) {
	if im := s.images[k]; im != nil {
		if r, at := im.newest(address, 1); at != nowhere {
			page := s.page[:]
			return page, im.files[at].read(r.slot, page)
		}
	}
	return nil, fmt.Errorf("page %#x of image %d/%d was never stored", address, k.kind, k.id)
}

// store takes a piece of data, zero pages, or pages that are here already.
func (s *Store) store(p transport.Piece, content []byte) error {
	if p.Flags == 0 && p.Kind == transport.PieceHave {
		return nil // an earlier round has nothing to list
	}
	im, err := s.image(p)
	if err != nil {
		return err
	}
	if err := im.checkOrder(p.Address, uint64(p.Pages), p.Flags != 0); err != nil {
		return err
	}
	lazy := s.lazy && im.id.Type == criu.TaskImage && criu.PageFlags(p.Flags)&criu.PageLazy != 0
	for left := uint64(p.Pages); left > 0; {
		r, at := im.early(p.Address, left)
		var part []byte
		if len(content) > 0 {
			part, content = content[:r.pages*pageSize], content[r.pages*pageSize:]
		}
		to := im.home(r, at, p.Flags != 0, lazy)
		r, err := s.put(im, r, at, to, p.Kind, part)
		if err != nil {
			return err
		}
		if p.Flags != 0 {
			im.list(listed{r, to, lazy})
		}
		p.Address, left = r.end(), left-r.pages
	}
	return nil
}

// home decides where pages belong that lie at the given place: as a rule they
// stay. What the final list has and neither base/ nor the supervisor's map can
// tell of goes into the final file.
func (im *image) home(r run, at place, final, lazy bool) place {
	switch {
	case at == inBase, at == inSide && (!final || lazy):
		return at
	case final && !lazy:
		return inFinal
	case !final && im.base.fits(r.address):
		return inBase
	}
	return inSide
}

// put brings pages from one place to another and gives them their content. It
// returns where they are then.
func (s *Store) put(im *image, r run, from, to place, kind transport.PieceKind, content []byte) (run, error) {
	have := kind == transport.PieceHave
	file := &im.files[to]
	switch {
	case have && from == nowhere:
		return r, fmt.Errorf("page %#x is said to be here, and is not", r.address)
	case from == to && have:
		return r, nil
	case from == to:
		return r, file.put(r.slot, r.pages, content)
	}
	if err := s.reserve(r.pages); err != nil {
		return r, err
	}
	var err error
	if have {
		r.slot, err = file.copyFrom(&im.files[from], r.slot, r.pages)
	} else {
		r.slot, err = file.append(r.pages, content)
	}
	if err != nil {
		return r, err
	}
	return r, im.note(r, to)
}

// note remembers where pages of an earlier round, or lazy ones, have come to
// lie. Those in the final file are found by the list.
func (im *image) note(r run, at place) error {
	switch at {
	case inBase:
		return im.base.add(r)
	case inSide:
		im.side.add(r)
	}
	return nil
}
