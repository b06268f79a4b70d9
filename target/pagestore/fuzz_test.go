package pagestore

import (
	"testing"

	"migrate/criu"
	"migrate/transport"
)

// FuzzApply has a peer send anything that the codec lets through: a store must
// answer with an error, keep to its limit, and, if it accepts a final list, be
// able to write it.
func FuzzApply(f *testing.F) {
	f.Add([]byte{1, 0, 4, 1, 0, 0, 1, 7, 5, 1, 0, 0, 3, 7, 8, 1, 0, 0}, false)
	f.Add([]byte{1, 0, 4, 4, 0, 0, 4, 0, 5, 1, 0, 1, 5, 2, 9, 2, 5, 0, 6, 0, 9, 1, 0, 0}, true)
	f.Add([]byte{2, 0, 1, 255, 0, 0, 5, 0, 2, 4, 1, 0, 3, 6, 1, 200, 0, 0}, true)
	f.Fuzz(func(t *testing.T, script []byte, lazy bool) {
		s := newStore(t, 64*pageSize, lazy)
		for ; len(script) >= 6; script = script[6:] {
			b := scripted(script)
			if err := s.Apply(&b); err != nil {
				return
			}
			if s.Pages() > 64 {
				t.Fatalf("%d pages in a store of 64", s.Pages())
			}
		}
		finish(t, s)
		for _, im := range s.sorted() {
			readBack(t, s, im.id)
		}
	})
}

// scripted makes a batch of one piece: kind, flags, page, pages, page referred
// to, and the first byte of what it holds.
func scripted(c []byte) transport.Batch {
	p := transport.Piece{
		Kind: transport.PieceKind(c[0]%6 + 1), Flags: c[1] & 7, ImageType: 1 + c[1]>>7, Image: uint64(c[1] >> 5 & 1),
		Address: uint64(c[2]) * pageSize, Pages: uint32(c[3]) + 1,
	}
	var content []byte
	switch p.Kind {
	case transport.PieceData:
		content = make([]byte, p.Pages*pageSize)
		content[0] = c[5]
	case transport.PieceDelta:
		p.Pages, content = 1, []byte{c[5], 1, c[4]}
	case transport.PieceCopy:
		content = transport.AppendRef(nil, transport.Ref{ImageType: uint8(criu.TaskImage), Address: uint64(c[4]) * pageSize})
	case transport.PieceSum:
		content = make([]byte, p.Pages*sumLen)
	}
	b := transport.Batch{Round: 1}
	b.Add(p, content)
	return b
}
