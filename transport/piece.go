package transport

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"

	"github.com/zeebo/xxh3"
)

// PieceKind says what a batch holds about a range of pages. Values go over the
// wire: never reuse or renumber one.
type PieceKind uint8

// The kinds.
const (
	PieceData  PieceKind = 1 // content follows
	PieceZero  PieceKind = 2 // all zero
	PieceHave  PieceKind = 3 // as the target has it from an earlier round
	PieceDelta PieceKind = 4 // a difference to what the target has of it: see AppendDelta
	PieceCopy  PieceKind = 5 // as pages stored earlier in the order of Seq: a Ref
	PieceSum   PieceKind = 6 // what the frozen pages must hash to: a PageSum of each
)

var kindNames = map[PieceKind]string{
	PieceData: "data", PieceZero: "zero", PieceHave: "have", PieceDelta: "delta", PieceCopy: "copy", PieceSum: "sum",
}

// Piece is a range of pages of one image.
type Piece struct {
	Kind      PieceKind
	ImageType uint8  // with Image, names the image, as the source and target agree
	Image     uint64 //
	Address   uint64 // of the first page, a multiple of PageSize
	Pages     uint32 // at least 1
	Flags     uint8  // of the image's page map; not looked at here
}

// end returns the address behind the piece.
func (p Piece) end() uint64 { return p.Address + uint64(p.Pages)*PageSize }

// pieceLen is the size of a piece in a batch's table.
const pieceLen = 23

func (p Piece) appendTo(b []byte) []byte {
	b = append(b, byte(p.Kind), p.ImageType)
	b = binary.BigEndian.AppendUint64(b, p.Image)
	b = binary.BigEndian.AppendUint64(b, p.Address)
	b = binary.BigEndian.AppendUint32(b, p.Pages)
	return append(b, p.Flags)
}

func parsePiece(b []byte) Piece {
	return Piece{
		Kind: PieceKind(b[0]), ImageType: b[1], Image: binary.BigEndian.Uint64(b[2:]),
		Address: binary.BigEndian.Uint64(b[10:]), Pages: binary.BigEndian.Uint32(b[18:]), Flags: b[22],
	}
}

func (p Piece) validate() error {
	if kindNames[p.Kind] == "" || p.Pages == 0 || p.Address%PageSize != 0 ||
		p.Address > math.MaxUint64-uint64(p.Pages)*PageSize {
		return fmt.Errorf("%w: piece of kind %d: %d pages at %#x", ErrProtocol, p.Kind, p.Pages, p.Address)
	}
	return nil
}

// least returns the bytes of data that p must have at least; only deltas may
// have more.
func (p Piece) least() uint64 {
	switch p.Kind {
	case PieceData:
		return uint64(p.Pages) * PageSize
	case PieceDelta:
		return uint64(p.Pages) * deltaHeadLen
	case PieceCopy:
		return refLen
	case PieceSum:
		return uint64(p.Pages) * sumLen
	}
	return 0
}

const (
	deltaHeadLen = 2  // the length in front of a delta
	refLen       = 17 // a Ref
	sumLen       = 16 // a PageSum
)

// cut takes the content of p's first page, if p is of deltas, or else of all
// of p off the front of data. It is false when data end before.
func (p Piece) cut(data []byte) (content, rest []byte, ok bool) {
	n := p.least()
	if p.Kind == PieceDelta {
		if len(data) < deltaHeadLen {
			return nil, nil, false
		}
		n, data = uint64(binary.BigEndian.Uint16(data)), data[deltaHeadLen:]
	}
	if uint64(len(data)) < n || p.Kind == PieceDelta && n > MaxDelta {
		return nil, nil, false
	}
	return data[:n:n], data[n:], true
}

// Ref names pages that a target stored earlier: the first of as many as the
// piece has.
type Ref struct {
	ImageType uint8
	Image     uint64
	Address   uint64 // a multiple of PageSize
}

// AppendRef appends r in the form of the wire.
func AppendRef(b []byte, r Ref) []byte {
	b = binary.BigEndian.AppendUint64(append(b, r.ImageType), r.Image)
	return binary.BigEndian.AppendUint64(b, r.Address)
}

// ParseRef reads what AppendRef wrote.
func ParseRef(b []byte) (Ref, error) {
	if len(b) != refLen {
		return Ref{}, fmt.Errorf("%w: reference of %d bytes", ErrProtocol, len(b))
	}
	r := Ref{ImageType: b[0], Image: binary.BigEndian.Uint64(b[1:]), Address: binary.BigEndian.Uint64(b[9:])}
	if r.Address%PageSize != 0 {
		return Ref{}, fmt.Errorf("%w: reference to a page at %#x", ErrProtocol, r.Address)
	}
	return r, nil
}

// apart reports whether the pages that p copies from r exist and are none of
// those that it copies to.
func (p Piece) apart(r Ref) bool {
	n := uint64(p.Pages) * PageSize
	if r.Address > math.MaxUint64-n {
		return false
	}
	return r.ImageType != p.ImageType || r.Image != p.Image || r.Address+n <= p.Address || p.end() <= r.Address
}

// PageSum is the hash of a page by which a target is checked: XXH3, 128 bits,
// no seed, high half first.
func PageSum(page []byte) [16]byte { return xxh3.Hash128(page).Bytes() }

// Add appends p and its content: whole pages, one delta (p is one page), a Ref
// as AppendRef writes it, sums, or nothing. A piece that goes on where the last
// one ends becomes part of it.
func (b *Batch) Add(p Piece, content []byte) {
	joined := b.join(p, content)
	if !joined {
		b.Pieces = append(b.Pieces, p)
	}
	switch p.Kind {
	case PieceDelta:
		b.Data = binary.BigEndian.AppendUint16(b.Data, uint16(len(content)))
	case PieceCopy:
		if joined {
			return // the reference in front covers it
		}
	}
	b.Data = append(b.Data, content...)
}

// join makes p part of the last piece if it goes on from there.
func (b *Batch) join(p Piece, content []byte) bool {
	if len(b.Pieces) == 0 {
		return false
	}
	last := &b.Pieces[len(b.Pieces)-1]
	both := *last
	both.Pages += p.Pages
	if last.Kind != p.Kind || last.ImageType != p.ImageType || last.Image != p.Image || last.Flags != p.Flags ||
		last.end() != p.Address || both.Pages < last.Pages {
		return false
	}
	if p.Kind == PieceCopy && !b.joinRef(*last, both, content) {
		return false
	}
	*last = both
	return true
}

// joinRef reports whether the reference of last, the end of Data, can stand
// for that of the piece behind it too.
func (b *Batch) joinRef(last, both Piece, content []byte) bool {
	if len(b.Data) < refLen {
		return false
	}
	first, err := ParseRef(b.Data[len(b.Data)-refLen:])
	if err != nil {
		return false
	}
	next, err := ParseRef(content)
	want := first
	want.Address += uint64(last.Pages) * PageSize
	return err == nil && next == want && both.apart(first)
}

// All returns the pieces of a decoded batch, each with its content: see Add.
// Deltas come one page at a time.
func (b *Batch) All() iter.Seq2[Piece, []byte] {
	return func(yield func(Piece, []byte) bool) {
		data := b.Data
		for _, p := range b.Pieces {
			rest, ok := p.each(data, yield)
			if !ok {
				return
			}
			data = rest
		}
	}
}

// each yields the parts of p, and returns the data behind it unless it was
// stopped.
func (p Piece) each(data []byte, yield func(Piece, []byte) bool) ([]byte, bool) {
	pages := p.Pages
	if p.Kind == PieceDelta {
		p.Pages = 1
	}
	for done := uint32(0); done < pages; done += p.Pages {
		content, rest, ok := p.cut(data)
		if !ok || !yield(p, content) {
			return nil, false
		}
		p.Address, data = p.end(), rest
	}
	return data, true
}

// checkTable validates pieces and compares them with the amount of data that
// they need, as far as that is known without the data.
func checkTable(pieces []Piece, data int) error {
	var need uint64
	exact := true
	for _, p := range pieces {
		if err := p.validate(); err != nil {
			return err
		}
		need += p.least()
		exact = exact && p.Kind != PieceDelta
	}
	if need > uint64(data) || exact && need < uint64(data) {
		return fmt.Errorf("%w: pieces need %d bytes, batch holds %d", ErrProtocol, need, data)
	}
	return nil
}

// checkContent walks the data of pieces that checkTable has passed: they must
// end exactly with the last piece, and references must make sense.
func checkContent(pieces []Piece, data []byte) error {
	var bad error
	check := func(p Piece, content []byte) bool {
		if p.Kind != PieceCopy {
			return true
		}
		r, err := ParseRef(content)
		if err == nil && !p.apart(r) {
			err = fmt.Errorf("%w: %d pages at %#x as those at %#x", ErrProtocol, p.Pages, p.Address, r.Address)
		}
		bad = err
		return err == nil
	}
	rest := data
	for _, p := range pieces {
		var ok bool
		if rest, ok = p.each(rest, check); bad != nil {
			return bad
		} else if !ok {
			return fmt.Errorf("%w: data end inside a piece, or a delta is too long", ErrProtocol)
		}
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %d bytes behind the last piece", ErrProtocol, len(rest))
	}
	return nil
}
