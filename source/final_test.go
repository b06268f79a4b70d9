package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"migrate/criu"
	"migrate/predump"
	"migrate/source/pages"
	"migrate/transport"
)

// pieces is an Out that keeps what leaves.
type pieces struct {
	list []transport.Piece
	data []byte
}

func (p *pieces) Write(_ context.Context, frame []byte) error {
	var b transport.Batch
	if err := transport.DecodeBatch(frame, &b); err != nil {
		return err
	}
	for piece, content := range b.All() {
		p.list = append(p.list, piece)
		if piece.Kind == transport.PieceData {
			p.data = append(p.data, content...)
		}
	}
	return nil
}

func (p *pieces) End(context.Context) ([]transport.StreamDigest, error) { return nil, nil }

// cleanFrom is a tracker's word: pages from an address on are clean.
type cleanFrom uint64

func (c cleanFrom) Clean(_ predump.Image, address, n uint64) (uint64, bool) {
	if address >= uint64(c) {
		return n, true
	}
	return min(n, (uint64(c)-address)/pageSize), false
}

func newSink(t *testing.T, out pages.Out, tree frozenTree) *finalSink {
	path, err := pages.New(pages.Options{Table: predump.NewTable(), Lowest: transport.CodecNone, Highest: transport.CodecNone})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { path.Close() })
	return &finalSink{
		final: path.BeginFinal(t.Context(), out, 1, tree.read), frozen: func() (frozenTree, error) { return tree, nil },
		done: new(atomic.Uint64), parent: func(criu.PageImage) bool { return true },
	}
}

// memory is what a frozen task has at an address.
func memory(address, n uint64) []byte {
	var out []byte
	for i := range n {
		out = append(out, bytes.Repeat([]byte{byte(address/pageSize + i)}, pageSize)...)
	}
	return out
}

func readMemory(_ predump.Image, address uint64, buf []byte) error {
	copy(buf, memory(address, uint64(len(buf))/pageSize))
	return nil
}

// TestFinalSink takes pages that CRIU sends and pages that it only lists, and
// demands content for those, and only those, that nobody vouches for.
func TestFinalSink(t *testing.T) {
	const start, n, firstClean = 0x10000, 100, 0x10000 + 60*pageSize
	for _, flags := range []criu.PageFlags{criu.PagePresent, criu.PagePresent | criu.PageLazy, criu.PageParent} {
		out := &pieces{}
		s := newSink(t, out, frozenTree{clean: cleanFrom(firstClean), read: readMemory})
		e := criu.Extent{Image: criu.PageImage{Type: criu.TaskImage, ID: 7}, Address: start, Pages: n, Flags: flags}
		var content bytes.Reader
		if flags&criu.PagePresent != 0 {
			content.Reset(memory(start, n))
		}
		if err := s.Extent(e, &content); err != nil {
			t.Fatal(err)
		}
		if _, err := s.final.Finish(); err != nil {
			t.Fatal(err)
		}
		if content.Len() != 0 {
			t.Errorf("flags %d: %d bytes were not read", flags, content.Len())
		}
		if !bytes.Equal(out.data, memory(start, 60)) {
			t.Errorf("flags %d: %d bytes of content left, want the 60 pages that may have changed", flags, len(out.data))
		}
		if got, want := describe(out.list), wanted(flags); !slices.Equal(got, want) {
			t.Errorf("flags %d:\n%v, want\n%v", flags, got, want)
		}
		if s.done.Load() != n*pageSize {
			t.Errorf("flags %d: %d bytes done", flags, s.done.Load())
		}
	}
}

// TestFinalSinkChanged sends what CRIU sends because it changed, whatever the
// tracker knows of it: soft-dirty's word is only about what CRIU lists.
func TestFinalSinkChanged(t *testing.T) {
	out := &pieces{}
	s := newSink(t, out, frozenTree{clean: cleanFrom(0), read: readMemory})
	s.changed = true
	im := criu.PageImage{Type: criu.TaskImage, ID: 7}
	err := errors.Join(
		s.Extent(criu.Extent{Image: im, Address: 0x10000, Pages: 3, Flags: criu.PagePresent}, bytes.NewReader(memory(0x10000, 3))),
		s.Extent(criu.Extent{Image: im, Address: 0x20000, Pages: 5, Flags: criu.PageParent}, &bytes.Reader{}),
	)
	if _, ferr := s.final.Finish(); err != nil || ferr != nil {
		t.Fatal(err, ferr)
	}
	if !bytes.Equal(out.data, memory(0x10000, 3)) {
		t.Errorf("%d bytes of content left, want the three pages that changed", len(out.data))
	}
	if got, want := describe(out.list), []string{"kind 1 flags 4: 3 at 0x10000", "kind 3 flags 4: 5 at 0x20000"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// describe joins neighbours, which batches may cut anywhere.
func describe(list []transport.Piece) (out []string) {
	for i := 0; i < len(list); {
		p, n := list[i], uint32(0)
		for ; i < len(list) && list[i].Kind == p.Kind && list[i].Flags == p.Flags && list[i].Address == p.Address+uint64(n)*pageSize; i++ {
			n += list[i].Pages
		}
		out = append(out, fmt.Sprintf("kind %d flags %d: %d at %#x", p.Kind, p.Flags, n, p.Address))
	}
	return out
}

func wanted(f criu.PageFlags) []string {
	if f&criu.PagePresent != 0 {
		return []string{fmt.Sprintf("kind 1 flags %d: 60 at 0x10000", f), fmt.Sprintf("kind 3 flags %d: 40 at 0x4c000", f)}
	}
	return []string{"kind 1 flags 4: 60 at 0x10000", "kind 3 flags 4: 40 at 0x4c000"} // none is lazy
}

// TestFinalSinkVerify asks for a comparison of everything listed.
func TestFinalSinkVerify(t *testing.T) {
	out := &pieces{}
	s := newSink(t, out, frozenTree{clean: never{}, read: readMemory})
	s.verify = true
	shared := criu.Extent{Image: criu.PageImage{Type: criu.ShmemImage, ID: 3}, Pages: 2, Flags: criu.PagePresent}
	err := errors.Join(
		s.Extent(criu.Extent{Image: criu.PageImage{Type: criu.TaskImage, ID: 7}, Address: 0x1000, Pages: 300, Flags: criu.PageParent}, &bytes.Reader{}),
		s.Extent(shared, bytes.NewReader(memory(0x5000, 2))),
	)
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.compareAll(nil)
	if err != nil || n != 302 {
		t.Errorf("compareAll() = %d, %v", n, err)
	}
	if _, err := s.final.Finish(); err != nil {
		t.Fatal(err)
	}
	var sums uint32
	for _, p := range out.list {
		if p.Kind == transport.PieceSum {
			sums += p.Pages
		}
	}
	if uint64(sums) != n {
		t.Errorf("sums of %d pages left, want %d", sums, n)
	}
}

func TestFinalSinkFails(t *testing.T) {
	gone := errors.New("gone")
	s := newSink(t, &pieces{}, frozenTree{})
	s.frozen = func() (frozenTree, error) { return frozenTree{}, gone }
	if err := s.Extent(criu.Extent{Pages: 1}, &bytes.Reader{}); !errors.Is(err, gone) {
		t.Errorf("Extent() = %v, want %v", err, gone)
	}
}

func TestWithout(t *testing.T) {
	const p = pageSize
	for _, tt := range []struct {
		except []uint64
		want   []pageRange
	}{
		{nil, []pageRange{{10 * p, 4}}},
		{[]uint64{9 * p, 14 * p}, []pageRange{{10 * p, 4}}},
		{[]uint64{10 * p}, []pageRange{{11 * p, 3}}},
		{[]uint64{13 * p, 11 * p}, []pageRange{{10 * p, 1}, {12 * p, 1}}},
		{[]uint64{12 * p, 12 * p}, []pageRange{{10 * p, 2}, {13 * p, 1}}},
		{[]uint64{10 * p, 11 * p, 12 * p, 13 * p}, nil},
	} {
		if got := without(10*p, 4, tt.except); !slices.Equal(got, tt.want) {
			t.Errorf("without(%x) = %x, want %x", tt.except, got, tt.want)
		}
	}
}
