package pagestore

import (
	"fmt"

	"migrate"
	"migrate/criu"
	"migrate/transport"
)

// sumLen is the length of a [transport.PageSum].
const sumLen = 16

// verify compares what would be restored with the hashes of the frozen pages.
func (s *Store) verify(p transport.Piece, sums []byte) error {
	im := s.images[key{p.ImageType, p.Image}]
	page := s.page[:]
	for i := range uint64(p.Pages) {
		address := p.Address + i*pageSize
		var l listed
		var ok bool
		if im != nil {
			l, ok = im.listedAt(address)
		}
		if !ok {
			return fmt.Errorf("page %#x is to be compared, and is not in the final list", address)
		}
		if err := im.files[l.at].read(l.from(address).slot, page); err != nil {
			return err
		}
		if transport.PageSum(page) != [sumLen]byte(sums[i*sumLen:]) {
			return &DiffersError{im.id, address}
		}
		s.verified++
	}
	return nil
}

// DiffersError is a page that would have been restored with another content
// than it had on the frozen source.
type DiffersError struct {
	Image   criu.PageImage
	Address uint64
}

// Error names the page.
func (e *DiffersError) Error() string {
	owner := fmt.Sprintf("process %d", e.Image.ID)
	if e.Image.Type == criu.ShmemImage {
		owner = "shared memory"
	}
	return fmt.Sprintf("page %#x of %s (memory image %d) differs from the frozen source", e.Address, owner, e.Image.ID)
}

// Failure says what to do about it.
func (e *DiffersError) Failure() migrate.Failure {
	return migrate.Failure{
		What: e.Error(), Cause: "the tracker missed a write, or something changed memory behind its back",
		Advice: "move it with another --tracker (\"none\" copies everything while frozen), and report this",
	}
}
