package pagestore

import (
	"bytes"
	"testing"

	"migrate/criu"
	"migrate/transport"
)

// BenchmarkApply stores data in batches of 256 KiB, over what is there, as a
// later round does.
func BenchmarkApply(b *testing.B) {
	s := benchStore(b)
	content := bytes.Repeat([]byte{7}, 64*pageSize)
	b.SetBytes(int64(len(content)))
	for i := 0; b.Loop(); i++ {
		p := piece(transport.PieceData, uint64(i%64)*64*pageSize, 64, 0)
		apply1(b, s, p, content)
	}
}

// BenchmarkDelta patches one page after the other.
func BenchmarkDelta(b *testing.B) {
	s := benchStore(b)
	was, is := bytes.Repeat([]byte{7}, pageSize), bytes.Repeat([]byte{7}, pageSize)
	is[100], is[2000] = 1, 1
	delta, _ := transport.AppendDelta(nil, was, is)
	for i := 0; b.Loop(); i++ {
		apply1(b, s, piece(transport.PieceDelta, uint64(i%4096)*pageSize, 1, 0), delta)
	}
}

// BenchmarkList takes the final list of 16 MiB of pages that are there, and
// writes the pagemaps: what is done while the workload is frozen.
func BenchmarkList(b *testing.B) {
	s := benchStore(b)
	for b.Loop() {
		if _, err := s.Unlist(); err != nil {
			b.Fatal(err)
		}
		apply1(b, s, piece(transport.PieceHave, 0, 4096, uint8(criu.PageLazy)), nil)
	}
}

func benchStore(b *testing.B) *Store {
	b.Helper()
	s, err := New(b.TempDir(), 64<<20, true, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	content := bytes.Repeat([]byte{7}, 64*pageSize)
	for i := range uint64(64) {
		apply1(b, s, piece(transport.PieceData, i*64*pageSize, 64, 0), content)
	}
	return s
}

func apply1(b *testing.B, s *Store, p transport.Piece, content []byte) {
	b.Helper()
	batch := transport.Batch{Round: 1}
	batch.Add(p, content)
	if err := s.Apply(&batch); err != nil {
		b.Fatal(err)
	}
}
