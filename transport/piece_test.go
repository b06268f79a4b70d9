package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func refOf(image, address uint64) []byte {
	return AppendRef(nil, Ref{ImageType: 1, Image: image, Address: address})
}

// What Add takes comes out of All, after a trip over the wire, with neighbours
// joined.
func TestAddAndAll(t *testing.T) {
	type part struct {
		Piece
		content string
	}
	page := func(kind PieceKind, n uint64) Piece {
		return Piece{Kind: kind, ImageType: 1, Image: 7, Address: n * PageSize, Pages: 1}
	}
	two := func(p Piece) Piece { p.Pages = 2; return p }
	flagged := func(p Piece) Piece { p.Flags = 4; return p }
	a, b := strings.Repeat("a", PageSize), strings.Repeat("b", PageSize)
	sum := strings.Repeat("s", sumLen)
	ref := func(n uint64) string { return string(refOf(7, n*PageSize)) }
	tests := map[string]struct {
		add, all []part
		pieces   int
	}{
		"data":               {[]part{{page(PieceData, 0), a}, {page(PieceData, 1), b}}, []part{{two(page(PieceData, 0)), a + b}}, 1},
		"zero":               {[]part{{page(PieceZero, 0), ""}, {page(PieceZero, 1), ""}}, []part{{two(page(PieceZero, 0)), ""}}, 1},
		"apart":              {[]part{{page(PieceZero, 0), ""}, {page(PieceZero, 2), ""}}, []part{{page(PieceZero, 0), ""}, {page(PieceZero, 2), ""}}, 2},
		"other flags":        {[]part{{page(PieceHave, 0), ""}, {flagged(page(PieceHave, 1)), ""}}, []part{{page(PieceHave, 0), ""}, {flagged(page(PieceHave, 1)), ""}}, 2},
		"deltas":             {[]part{{page(PieceDelta, 0), "xy"}, {page(PieceDelta, 1), ""}}, []part{{page(PieceDelta, 0), "xy"}, {page(PieceDelta, 1), ""}}, 1},
		"sums":               {[]part{{page(PieceSum, 0), sum}, {two(page(PieceSum, 1)), sum + sum}}, []part{{Piece{PieceSum, 1, 7, 0, 3, 0}, sum + sum + sum}}, 1},
		"copies in a row":    {[]part{{page(PieceCopy, 0), ref(8)}, {page(PieceCopy, 1), ref(9)}}, []part{{two(page(PieceCopy, 0)), ref(8)}}, 1},
		"copies of one page": {[]part{{page(PieceCopy, 0), ref(8)}, {page(PieceCopy, 1), ref(8)}}, []part{{page(PieceCopy, 0), ref(8)}, {page(PieceCopy, 1), ref(8)}}, 2},
		"copy of a copy":     {[]part{{page(PieceCopy, 1), ref(0)}, {page(PieceCopy, 2), ref(1)}}, []part{{page(PieceCopy, 1), ref(0)}, {page(PieceCopy, 2), ref(1)}}, 2},
		"all kinds": {
			[]part{{page(PieceDelta, 0), "d"}, {page(PieceData, 1), a}, {page(PieceCopy, 2), ref(0)}, {page(PieceHave, 3), ""}, {page(PieceSum, 4), sum}, {page(PieceZero, 5), ""}},
			[]part{{page(PieceDelta, 0), "d"}, {page(PieceData, 1), a}, {page(PieceCopy, 2), ref(0)}, {page(PieceHave, 3), ""}, {page(PieceSum, 4), sum}, {page(PieceZero, 5), ""}}, 6,
		},
	}
	for name, tt := range tests {
		var in, out Batch
		for _, p := range tt.add {
			in.Add(p.Piece, []byte(p.content))
		}
		if len(in.Pieces) != tt.pieces {
			t.Errorf("%s: %d pieces, want %d", name, len(in.Pieces), tt.pieces)
		}
		frame, err := EncodeBatch(nil, &in, CodecS2)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := DecodeBatch(frame, &out); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []part
		for p, content := range out.All() {
			got = append(got, part{p, string(content)})
		}
		if !reflect.DeepEqual(got, tt.all) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, tt.all)
		}
	}
}

func TestAllStops(t *testing.T) {
	b := Batch{Pieces: []Piece{{Kind: PieceDelta, Pages: 3}}, Data: make([]byte, 6)}
	n := 0
	for range b.All() {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d pieces", n)
	}
	b.Data = b.Data[:3] // never decoded: no panic
	for range b.All() {
		n++
	}
	if n != 3 {
		t.Errorf("%d pieces of a batch that is cut off", n-2)
	}
}

// A batch whose pieces and data do not fit is refused by both ends.
func TestPiecesAndData(t *testing.T) {
	copies := func(pages uint32, address uint64, ref []byte) ([]Piece, []byte) {
		return []Piece{{Kind: PieceCopy, ImageType: 1, Image: 7, Address: address, Pages: pages}}, ref
	}
	tests := map[string]func() ([]Piece, []byte){
		"delta longer than the data": func() ([]Piece, []byte) { return []Piece{{Kind: PieceDelta, Pages: 1}}, []byte{0, 2, 1} },
		"delta shorter":              func() ([]Piece, []byte) { return []Piece{{Kind: PieceDelta, Pages: 1}}, []byte{0, 1, 1, 1} },
		"no length":                  func() ([]Piece, []byte) { return []Piece{{Kind: PieceDelta, Pages: 1}}, []byte{0} },
		"second length missing":      func() ([]Piece, []byte) { return []Piece{{Kind: PieceDelta, Pages: 2}}, []byte{0, 2, 1, 1} },
		"more pages than data":       func() ([]Piece, []byte) { return []Piece{{Kind: PieceDelta, Pages: 0xffffffff}}, []byte{0, 0} },
		"delta eats a page": func() ([]Piece, []byte) {
			return []Piece{{Kind: PieceDelta, Pages: 1}, {Kind: PieceData, Pages: 1, Address: PageSize}}, append([]byte{0, 9}, make([]byte, PageSize)...)
		},
		"delta too long": func() ([]Piece, []byte) {
			return []Piece{{Kind: PieceDelta, Pages: 1}}, append([]byte{8, 0}, make([]byte, 2048)...)
		},
		"half a reference":       func() ([]Piece, []byte) { return copies(1, 0, refOf(7, PageSize)[:8]) },
		"reference not aligned":  func() ([]Piece, []byte) { return copies(1, 0, refOf(7, 1)) },
		"reference to itself":    func() ([]Piece, []byte) { return copies(1, PageSize, refOf(7, PageSize)) },
		"copy over itself":       func() ([]Piece, []byte) { return copies(2, PageSize, refOf(7, 0)) },
		"copy over itself, down": func() ([]Piece, []byte) { return copies(2, 0, refOf(7, PageSize)) },
		"reference to the end":   func() ([]Piece, []byte) { return copies(2, 0, refOf(8, 0xffff_ffff_ffff_f000)) },
		"sum missing":            func() ([]Piece, []byte) { return []Piece{{Kind: PieceSum, Pages: 2}}, make([]byte, sumLen) },
		"sum left over":          func() ([]Piece, []byte) { return []Piece{{Kind: PieceSum, Pages: 1}}, make([]byte, 2*sumLen) },
	}
	for name, make := range tests {
		pieces, data := make()
		if _, err := EncodeBatch(nil, &Batch{Pieces: pieces, Data: data}, CodecNone); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: EncodeBatch = %v", name, err)
		}
		var table []byte
		for _, p := range pieces {
			table = p.appendTo(table)
		}
		frame := forge(batchHead{codec: CodecNone, data: len(data), sum: checksum(table, data)}, pieces, data)
		if err := DecodeBatch(frame, new(Batch)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: DecodeBatch = %v", name, err)
		}
	}
	pieces, data := copies(2, 2*PageSize, refOf(7, 0))
	if _, err := EncodeBatch(nil, &Batch{Pieces: pieces, Data: data}, CodecNone); err != nil {
		t.Errorf("a copy side by side: %v", err)
	}
}

// The contents of each kind, as other releases wrote and will read them.
func TestGoldenPieces(t *testing.T) {
	old := make([]byte, PageSize)
	changed := bytes.Clone(old)
	copy(changed[300:], "abc")
	changed[4095] = 9
	delta, ok := AppendDelta(nil, old, changed)
	if !ok {
		t.Fatal("no delta")
	}
	p := func(k PieceKind) Piece { return Piece{Kind: k, ImageType: 1, Image: 2, Address: 0x3000, Pages: 1} }
	sum := PageSum(old)
	tests := map[string]struct {
		p       Piece
		content []byte
		want    string // of the batch's data
	}{
		"data":  {p(PieceData), bytes.Repeat([]byte{0xaa}, PageSize), strings.Repeat("aa", PageSize)},
		"zero":  {p(PieceZero), nil, ""},
		"have":  {p(PieceHave), nil, ""},
		"delta": {p(PieceDelta), delta, "000a" + "ac02" + "03" + "616263" + "d01d" + "01" + "09"},
		"copy":  {p(PieceCopy), AppendRef(nil, Ref{0x11, 0x2122232425262728, 0x3132333435363000}), "11" + "2122232425262728" + "3132333435363000"},
		"sum":   {p(PieceSum), sum[:], "3ee8dc4f9e7ee49593d76fe148c689ba"},
	}
	for name, tt := range tests {
		var b Batch
		b.Add(tt.p, tt.content)
		frame, err := EncodeBatch(nil, &b, CodecNone)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := fmt.Sprintf("%02x", uint8(tt.p.Kind)) + "01" + "0000000000000002" + "0000000000003000" + "00000001" + "00" + tt.want
		if got := hex.EncodeToString(frame[headerLen+batchHeadLen:]); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add(refOf(7, 0x7f0000001000))
	f.Add(refOf(7, 1))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRef(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("ParseRef = %v, want a protocol error", err)
			}
			return
		}
		if !bytes.Equal(AppendRef(nil, r), b) || r.Address%PageSize != 0 {
			t.Fatalf("ParseRef(% x) = %+v", b, r)
		}
	})
}
