package pagestore

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/criu"
	"migrate/internal/lazymap"
	"migrate/transport"
)

// page returns content that tells its page and version.
func page(address uint64, version byte) []byte {
	b := bytes.Repeat([]byte{version, byte(address >> 12), byte(address >> 20), 0x5a}, pageSize/4)
	return b
}

const present = uint8(criu.PagePresent)

var taskImage = criu.PageImage{Type: criu.TaskImage, ID: 7}

func newStore(t *testing.T, limit uint64, lazy bool) *Store {
	t.Helper()
	s, err := New(t.TempDir(), limit, lazy, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// piece builds one piece and its content.
func piece(kind transport.PieceKind, address, pages uint64, flags uint8) transport.Piece {
	return transport.Piece{Kind: kind, ImageType: 1, Image: 7, Address: address, Pages: uint32(pages), Flags: flags}
}

func data(b *transport.Batch, address, pages uint64, version byte, flags uint8) {
	b.Pieces = append(b.Pieces, piece(transport.PieceData, address, pages, flags))
	for i := range pages {
		b.Data = append(b.Data, page(address+i*pageSize, version)...)
	}
}

func apply(t *testing.T, s *Store, b transport.Batch) {
	t.Helper()
	if err := s.Apply(&b); err != nil {
		t.Fatal(err)
	}
}

func finish(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
}

func TestFinalOnly(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		s := newStore(t, 1<<20, lazy)
		b := transport.Batch{Round: 1}
		data(&b, 0x1000, 2, 1, present)
		b.Pieces = append(b.Pieces, piece(transport.PieceZero, 0x3000, 1, present))
		data(&b, 0x9000, 1, 1, present|uint8(criu.PageLazy))
		apply(t, s, b)
		finish(t, s)
		want := map[uint64][]byte{0x1000: page(0x1000, 1), 0x2000: page(0x2000, 1), 0x3000: make([]byte, pageSize), 0x9000: page(0x9000, 1)}
		compare(t, readBack(t, s, taskImage), want)
	}
}

// TestLazyStaysInPlace demands that of a lazy store nothing is copied at the
// end, and that what must be there before the tree runs is.
func TestLazyStaysInPlace(t *testing.T) {
	s := newStore(t, 1<<20, true)
	b := transport.Batch{Round: 1}
	data(&b, 0x1000, 4, 1, 0)
	apply(t, s, b)
	b = transport.Batch{Round: 2}
	data(&b, 0x0000, 1, 2, 0) // base/ has no room for it
	apply(t, s, b)
	stored := s.Pages()
	lazy := uint8(criu.PageLazy)
	apply(t, s, transport.Batch{Round: 3, Pieces: []transport.Piece{
		piece(transport.PieceHave, 0x0000, 3, lazy|uint8(criu.PageParent)),
		piece(transport.PieceHave, 0x3000, 1, present),
		piece(transport.PieceHave, 0x4000, 1, lazy),
	}})
	finish(t, s)
	if s.Pages() != stored {
		t.Errorf("%d pages were copied", s.Pages()-stored)
	}
	m, err := lazymap.Read(s.LazyMap())
	if err != nil {
		t.Fatal(err)
	}
	wantRows := []lazymap.Row{
		{Image: 7, Address: 0x0000, Pages: 1, File: 0, Slot: 0},
		{Image: 7, Address: 0x1000, Pages: 2, File: 1, Slot: 0},
		{Image: 7, Address: 0x4000, Pages: 1, File: 1, Slot: 3},
	}
	if !slices.Equal(m.Rows, wantRows) || !slices.Equal(m.Files, []string{"side-1", "base/pages-1.img"}) {
		t.Errorf("lazy map = %+v, want rows %+v", m, wantRows)
	}
	p, err := criu.ReadPagemap(s.Images(), taskImage)
	wantEntries := []criu.PagemapEntry{
		{Address: 0x0000, Pages: 3, Flags: criu.PageLazy}, {Address: 0x3000, Pages: 1, Flags: criu.PageParent}, {Address: 0x4000, Pages: 1, Flags: criu.PageLazy},
	}
	if err != nil || !slices.Equal(p.Entries, wantEntries) {
		t.Errorf("pagemap = %+v, %v; want %+v", p.Entries, err, wantEntries)
	}
}

func TestSharedMemoryIsNeverLazy(t *testing.T) {
	s := newStore(t, 1<<20, true)
	p := transport.Piece{Kind: transport.PieceZero, ImageType: uint8(criu.ShmemImage), Image: 5, Address: 0x1000, Pages: 2, Flags: uint8(criu.PageLazy)}
	apply(t, s, transport.Batch{Round: 1, Pieces: []transport.Piece{p}})
	finish(t, s)
	m, err := lazymap.Read(s.LazyMap())
	if err != nil || len(m.Rows) != 0 {
		t.Errorf("lazy map = %+v, %v; want no rows", m, err)
	}
}

// TestZeroPagesTakeNoMemory overwrites pages with zero ones.
func TestZeroPagesTakeNoMemory(t *testing.T) {
	s := newStore(t, 4<<20, false)
	b := transport.Batch{Round: 1}
	data(&b, 0x100000, 512, 1, 0)
	apply(t, s, b)
	before := blocks(t, s)
	apply(t, s, transport.Batch{Round: 2, Pieces: []transport.Piece{piece(transport.PieceZero, 0x100000, 500, 0)}})
	if after := blocks(t, s); after > before/10 {
		t.Errorf("the store takes %d KiB after its pages became zero, %d before", after/2, before/2)
	}
}

// blocks returns what base/ takes, in units of 512 bytes.
func blocks(t *testing.T, s *Store) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(s.dir, baseDir, criu.PagesName(1)), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

func compare(t *testing.T, got, want map[uint64][]byte) {
	t.Helper()
	for a, w := range want {
		if !bytes.Equal(got[a], w) {
			t.Errorf("page %#x differs", a)
		}
	}
	for a := range got {
		if want[a] == nil {
			t.Errorf("page %#x should not exist", a)
		}
	}
}

// batch makes a batch with one piece of task 7.
func batch(kind transport.PieceKind, address, pages uint64, flags uint8, content []byte) transport.Batch {
	b := transport.Batch{Round: 2}
	b.Add(piece(kind, address, pages, flags), content)
	return b
}

func ref(kind uint8, image, address uint64) []byte {
	return transport.AppendRef(nil, transport.Ref{ImageType: kind, Image: image, Address: address})
}

// TestHostileBatches gives a store with pages 0x10000 to 0x13fff, and 0x20000
// in the final list, what no honest source sends.
func TestHostileBatches(t *testing.T) {
	sum := transport.PageSum(page(0x20000, 1))
	wrong := transport.PageSum(page(0x20000, 2))
	tests := []struct {
		name string
		b    transport.Batch
		want string
	}{
		{"have what was never sent", batch(transport.PieceHave, 0x21000, 1, present, nil), "is not"},
		{"have across what is missing", batch(transport.PieceHave, 0x20000, 2, 0, nil), ""},
		{"final list goes back", batch(transport.PieceZero, 0x1000, 1, present, nil), "final list"},
		{"final list overlaps", batch(transport.PieceZero, 0x20000, 2, present, nil), "final list"},
		{"a listed page changes", batch(transport.PieceZero, 0x20000, 1, 0, nil), "final list"},
		{"a page before the list changes", batch(transport.PieceZero, 0x10000, 1, 0, nil), ""},
		{"unaligned", batch(transport.PieceZero, 0x21001, 1, present, nil), "bad address"},
		{"address wraps", batch(transport.PieceZero, ^uint64(0xfff), 2, present, nil), "bad address"},
		{"more than reserved", batch(transport.PieceZero, 0x21000, 1<<30, present, nil), ErrFull.Error()},
		{"have more than reserved", batch(transport.PieceHave, 0x21000, 1<<30, present, nil), ErrFull.Error()},
		{"copies of more than reserved", batch(transport.PieceCopy, 0x21000, 1<<30, present, ref(1, 7, 0x10000)), ErrFull.Error()},
		{"difference to an unknown page", batch(transport.PieceDelta, 0x15000, 1, 0, nil), "never stored"},
		{"difference that is none", batch(transport.PieceDelta, 0x10000, 1, 0, []byte{0xff, 0xff, 0xff}), "page 0x10000"},
		{"copy of an unknown page", batch(transport.PieceCopy, 0x21000, 1, 0, ref(1, 7, 0x15000)), "0x15000 of image 1/7 was never stored"},
		{"copy that runs into an unknown page", batch(transport.PieceCopy, 0x21000, 2, 0, ref(1, 7, 0x13000)), "0x14000 of image 1/7 was never stored"},
		{"copy of an unknown image", batch(transport.PieceCopy, 0x21000, 1, 0, ref(1, 8, 0x10000)), "never stored"},
		{"copy of an unknown type", batch(transport.PieceCopy, 0x21000, 1, 0, ref(9, 7, 0x10000)), "never stored"},
		{"sum of a page that is not listed", batch(transport.PieceSum, 0x10000, 1, 0, sum[:]), "final list"},
		{"sum of a listed page", batch(transport.PieceSum, 0x20000, 1, 0, sum[:]), ""},
		{"wrong sum", batch(transport.PieceSum, 0x20000, 1, 0, wrong[:]), "page 0x20000 of process 7 (memory image 7) differs from the frozen source"},
		{"unknown kind", transport.Batch{Pieces: []transport.Piece{piece(99, 0x21000, 1, 0)}}, "unknown kind"},
	}
	for _, tt := range tests {
		for _, lazy := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				s := newStore(t, 1<<20, lazy)
				b := transport.Batch{Round: 1}
				data(&b, 0x10000, 4, 1, 0)
				apply(t, s, b)
				b = transport.Batch{Round: 2}
				data(&b, 0x20000, 1, 1, present|uint8(criu.PageLazy))
				apply(t, s, b)
				err := s.Apply(&tt.b)
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("Apply() = %v, want %q", err, tt.want)
				}
			})
		}
	}
}

func TestUnknownImageType(t *testing.T) {
	s := newStore(t, 1<<20, false)
	p := transport.Piece{Kind: transport.PieceZero, ImageType: 9, Address: 0x1000, Pages: 1, Flags: present}
	if err := s.Apply(&transport.Batch{Round: 1, Pieces: []transport.Piece{p}}); err == nil {
		t.Error("Apply() = nil, want an error")
	}
}

func TestDifferingPageSaysWhatToDo(t *testing.T) {
	f := (&DiffersError{taskImage, 0x5000}).Failure()
	if !strings.Contains(f.What, "0x5000 of process 7") || f.Advice == "" {
		t.Errorf("Failure() = %+v", f)
	}
}

// TestFull fills a store of two pages in every way that takes room.
func TestFull(t *testing.T) {
	content := page(0, 1)
	for name, b := range map[string]transport.Batch{
		"data": batch(transport.PieceData, 0x9000, 1, 0, content),
		"zero": batch(transport.PieceZero, 0x9000, 1, 0, nil),
		"copy": batch(transport.PieceCopy, 0x9000, 1, 0, ref(1, 7, 0x1000)),
		"list": batch(transport.PieceZero, 0x9000, 1, present, nil),
	} {
		s := newStore(t, 2*pageSize, false)
		apply(t, s, batch(transport.PieceZero, 0x1000, 2, 0, nil))
		if err := s.Apply(&b); !errors.Is(err, ErrFull) {
			t.Errorf("%s: Apply() = %v, want ErrFull", name, err)
		}
	}
}

// TestMore fills a store beyond its limit, as far as it is given more.
func TestMore(t *testing.T) {
	left := uint64(3 * pageSize)
	s, err := New(t.TempDir(), 2*pageSize, false, func(bytes uint64) (uint64, error) {
		if bytes > left {
			return 0, errors.New("the host has none left")
		}
		left -= bytes
		return bytes, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	apply(t, s, batch(transport.PieceZero, 0x1000, 5, 0, nil))
	if s.Pages() != 5 || left != 0 {
		t.Errorf("%d pages stored, %d bytes left to give", s.Pages(), left)
	}
	b := batch(transport.PieceZero, 0x9000, 1, 0, nil)
	err = s.Apply(&b)
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "the host has none left") {
		t.Errorf("Apply() = %v, want ErrFull and why", err)
	}
	if s.Pages() != 5 {
		t.Errorf("%d pages stored, want 5", s.Pages())
	}
}
