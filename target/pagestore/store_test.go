package pagestore

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"migrate/criu"
	"migrate/transport"
)

// page returns content that tells its page and version.
func page(address uint64, version byte) []byte {
	b := bytes.Repeat([]byte{version, byte(address >> 12), byte(address >> 20), 0x5a}, pageSize/4)
	return b
}

const present = uint8(criu.PagePresent)

func newStore(t *testing.T, limit uint64) *Store {
	t.Helper()
	s, err := New(t.TempDir(), limit)
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

// readBack reads the images as CRIU does: the pagemap's entries in order, pages
// of the parent out of base/.
func readBack(t *testing.T, s *Store) map[uint64][]byte {
	t.Helper()
	out := map[uint64][]byte{}
	id := criu.PageImage{Type: criu.TaskImage, ID: 7}
	base := map[uint64][]byte{}
	if _, err := os.Lstat(filepath.Join(s.Images(), "parent")); err == nil {
		readDir(t, filepath.Join(s.Images(), "parent"), id, base, nil)
	}
	readDir(t, s.Images(), id, out, base)
	return out
}

func readDir(t *testing.T, dir string, id criu.PageImage, out, parent map[uint64][]byte) {
	t.Helper()
	m, err := criu.ReadPagemap(dir, id)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := os.ReadFile(filepath.Join(dir, criu.PagesName(m.PagesID)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m.Entries {
		for i := range e.Pages {
			a := e.Address + i*pageSize
			if e.Flags&criu.PageParent != 0 {
				if parent[a] == nil {
					t.Fatalf("page %#x is said to be in the parent, and is not", a)
				}
				out[a] = parent[a]
				continue
			}
			out[a], pages = pages[:pageSize], pages[pageSize:]
		}
	}
	if len(pages) != 0 {
		t.Errorf("%s: %d bytes of pages that no entry names", dir, len(pages))
	}
}

func apply(t *testing.T, s *Store, b transport.Batch) {
	t.Helper()
	if err := s.Apply(&b); err != nil {
		t.Fatal(err)
	}
}

func TestFinalOnly(t *testing.T) {
	s := newStore(t, 1<<20)
	b := transport.Batch{Round: 1}
	data(&b, 0x1000, 2, 1, present)
	b.Pieces = append(b.Pieces, piece(transport.PieceZero, 0x3000, 1, present))
	data(&b, 0x9000, 1, 1, present|uint8(criu.PageLazy))
	apply(t, s, b)
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	got := readBack(t, s)
	want := map[uint64][]byte{0x1000: page(0x1000, 1), 0x2000: page(0x2000, 1), 0x3000: make([]byte, pageSize), 0x9000: page(0x9000, 1)}
	compare(t, got, want)
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

// TestRandomRounds lets a modelled memory change between rounds and demands
// that the images hold its last state and nothing else.
func TestRandomRounds(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := newStore(t, 64<<20)
		sent, memory := map[uint64]byte{}, map[uint64]byte{}
		for i := range uint64(200) {
			if rng.IntN(2) == 0 {
				memory[(i+16)*pageSize] = 1
			}
		}
		rounds := 1 + rng.IntN(3)
		for round := 1; round <= rounds; round++ {
			sendRound(t, s, uint32(round), memory, sent)
			mutate(rng, memory)
		}
		sendFinal(t, s, uint32(rounds+1), memory, sent)
		want := map[uint64][]byte{}
		for a, v := range memory {
			want[a] = content(a, v)
		}
		compare(t, readBack(t, s), want)
	}
}

// content of version 0 is a zero page.
func content(a uint64, version byte) []byte {
	if version == 0 {
		return make([]byte, pageSize)
	}
	return page(a, version)
}

func mutate(rng *rand.Rand, memory map[uint64]byte) {
	for i := range uint64(240) {
		a := (i + 16) * pageSize
		switch rng.IntN(8) {
		case 0:
			delete(memory, a)
		case 1:
			memory[a] = byte(rng.IntN(5))
		}
	}
}

func sendRound(t *testing.T, s *Store, round uint32, memory, sent map[uint64]byte) {
	t.Helper()
	for i := range uint64(256) {
		a := i * pageSize
		v, ok := memory[a]
		if before, had := sent[a]; !ok || had && before == v {
			continue
		}
		b := transport.Batch{Round: round}
		if v == 0 {
			b.Pieces = append(b.Pieces, piece(transport.PieceZero, a, 1, 0))
		} else {
			data(&b, a, 1, v, 0)
		}
		apply(t, s, b)
		sent[a] = v
	}
}

func sendFinal(t *testing.T, s *Store, round uint32, memory, sent map[uint64]byte) {
	t.Helper()
	var b transport.Batch
	b.Round = round
	for i := range uint64(256) {
		a := i * pageSize
		v, ok := memory[a]
		if !ok {
			continue
		}
		before, had := sent[a]
		switch {
		case had && before == v:
			b.Pieces = append(b.Pieces, piece(transport.PieceHave, a, 1, present))
		case v == 0:
			b.Pieces = append(b.Pieces, piece(transport.PieceZero, a, 1, present))
		default:
			data(&b, a, 1, v, present)
		}
	}
	apply(t, s, b)
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
}

func TestHostileBatches(t *testing.T) {
	tests := []struct {
		name   string
		pieces []transport.Piece
	}{
		{"have what was never sent", []transport.Piece{piece(transport.PieceHave, 0x1000, 1, present)}},
		{"final list out of order", []transport.Piece{piece(transport.PieceZero, 0x5000, 1, present), piece(transport.PieceZero, 0x1000, 1, present)}},
		{"final list overlaps", []transport.Piece{piece(transport.PieceZero, 0x1000, 3, present), piece(transport.PieceZero, 0x2000, 1, present)}},
		{"unaligned", []transport.Piece{piece(transport.PieceZero, 0x1001, 1, present)}},
		{"address wraps", []transport.Piece{piece(transport.PieceZero, ^uint64(0xfff), 2, present)}},
		{"unknown image type", []transport.Piece{{Kind: transport.PieceZero, ImageType: 9, Address: 0x1000, Pages: 1, Flags: present}}},
		{"more than reserved", []transport.Piece{piece(transport.PieceZero, 0x1000, 1<<20, present)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t, 1<<20)
			if err := s.Apply(&transport.Batch{Round: 1, Pieces: tt.pieces}); err == nil {
				t.Error("Apply() = nil, want an error")
			}
		})
	}
}

func TestFull(t *testing.T) {
	s := newStore(t, 2*pageSize)
	b := transport.Batch{Round: 1}
	data(&b, 0x1000, 3, 1, 0)
	if err := s.Apply(&b); !errors.Is(err, ErrFull) {
		t.Errorf("Apply(3 pages into a store of 2) = %v, want ErrFull", err)
	}
}
