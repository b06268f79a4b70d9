package pages

import (
	"migrate/predump"
	"migrate/transport"
)

// An encoder belongs to one worker, with the memory that it needs.
type encoder struct {
	path  *Path
	round int
	batch transport.Batch
	data  []byte // of pages that are read while frozen
	old   []byte
	delta []byte
	runs  []predump.Run
}

func newEncoder(p *Path, round int) *encoder { return &encoder{path: p, round: round} }

// shrink adds what raw holds to b, with differences in the place of pages
// where that is less.
func (e *encoder) shrink(b, raw *transport.Batch) error {
	for p, content := range raw.All() {
		if p.Kind != transport.PieceData {
			b.Add(p, content)
			continue
		}
		e.content(b, p, content)
	}
	return nil
}

// content adds pages whose content the target needs. p has all but their
// number. Of pages sent for the first time nothing is kept: most never change
// again.
func (e *encoder) content(b *transport.Batch, p transport.Piece, data []byte) {
	if e.round == 1 {
		p.Pages = uint32(len(data) / pageSize)
		b.Add(p, data)
		return
	}
	im := predump.Image{Type: p.ImageType, ID: p.Image}
	p.Pages = 1
	for ; len(data) > 0; data, p.Address = data[pageSize:], p.Address+pageSize {
		page := data[:pageSize]
		p.Kind = transport.PieceData
		if e.differ(place{im, p.Address / pageSize}, page) {
			p.Kind, page = transport.PieceDelta, e.delta
		}
		b.Add(p, page)
	}
}

// differ puts the difference to what was sent of a page before into e.delta,
// and reports whether there is a small one.
func (e *encoder) differ(k place, page []byte) (ok bool) {
	if e.old, ok = e.path.cache.exchange(e.old[:0], k, e.round, page); !ok {
		return false
	}
	e.delta, ok = transport.AppendDelta(e.delta[:0], e.old, page)
	return ok
}
