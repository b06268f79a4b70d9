package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// changed returns a copy of page with n changes of size bytes each.
func changed(page []byte, r *rand.Rand, n, size int) []byte {
	page = bytes.Clone(page)
	for range n {
		at := r.IntN(len(page) - size + 1)
		for i := range size {
			page[at+i] ^= byte(1 + r.IntN(255))
		}
	}
	return page
}

func TestDeltaRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	old := memory(1, 5)
	for range 3000 {
		size := 1 << r.IntN(9)
		page := changed(old, r, r.IntN(12), size)
		delta, ok := AppendDelta([]byte("before"), old, page)
		if !ok {
			if string(delta) != "before" {
				t.Fatalf("after giving up: %q", delta)
			}
			continue
		}
		got := bytes.Clone(old)
		if err := ApplyDelta(got, delta[len("before"):]); err != nil || !bytes.Equal(got, page) {
			t.Fatalf("ApplyDelta = %v, same page: %v", err, bytes.Equal(got, page))
		}
	}
}

func TestDeltaSize(t *testing.T) {
	old := memory(1, 5)
	change := func(at, n int) func([]byte) {
		return func(b []byte) {
			for i := at; i < at+n; i++ {
				b[i]++
			}
		}
	}
	tests := map[string]struct {
		change func([]byte)
		want   int // -1: not worth it
	}{
		"nothing":               {func([]byte) {}, 0},
		"first byte":            {change(0, 1), 3},
		"last byte":             {change(PageSize-1, 1), 4},
		"eight bytes":           {change(1001, 8), 2 + 1 + 8},
		"two near changes":      {func(b []byte) { b[8]++; b[12]++ }, 1 + 1 + 5},
		"two changes":           {func(b []byte) { b[8]++; b[13]++ }, 3 + 3},
		"less than half a page": {change(0, MaxDelta-3), MaxDelta},
		"half a page":           {change(0, MaxDelta-2), -1},
		"all":                   {change(0, PageSize), -1},
		"every eighth byte": {func(b []byte) {
			for i := 0; i < PageSize; i += 8 {
				b[i]++
			}
		}, 512 * 3},
	}
	for name, tt := range tests {
		page := bytes.Clone(old)
		tt.change(page)
		delta, ok := AppendDelta(nil, old, page)
		if ok != (tt.want >= 0) || ok && len(delta) != tt.want {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(delta), ok, tt.want)
		}
		if got := bytes.Clone(old); ok && (ApplyDelta(got, delta) != nil || !bytes.Equal(got, page)) {
			t.Errorf("%s: does not come back", name)
		}
	}
	if _, ok := AppendDelta(nil, old[:8], old[:8]); ok {
		t.Error("a delta of something that is no page")
	}
}

func TestApplyDeltaHostile(t *testing.T) {
	uv := func(n ...uint64) (b []byte) {
		for _, v := range n {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	tests := map[string][]byte{
		"only a skip":        uv(8),
		"changes nothing":    uv(8, 0),
		"skips too far":      append(uv(PageSize+1, 1), 1),
		"skips to the end":   append(uv(PageSize, 1), 1),
		"changes too much":   append(uv(PageSize-1, 2), 1, 2),
		"bytes missing":      append(uv(0, 3), 1, 2),
		"second one too far": append(append(uv(0, 1), 1), append(uv(PageSize-1, 1), 1)...),
		"huge":               append(uv(1<<63, 1<<63), 1),
		"sum overflows":      append(uv(1, 1<<64-1), 1),
		"no varint":          bytes.Repeat([]byte{0xff}, 20),
		"varint cut off":     {0x80},
	}
	for name, delta := range tests {
		backing := make([]byte, PageSize+64)
		if err := ApplyDelta(backing[:PageSize], delta); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, want a protocol error", name, err)
		}
		if !bytes.Equal(backing[PageSize:], make([]byte, 64)) {
			t.Errorf("%s: wrote behind the page", name)
		}
	}
}

func FuzzApplyDelta(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint16(0))
	f.Add([]byte{0x05, 0x02, 'a', 'b'}, uint16(17), uint16(3))
	f.Add([]byte{0xff, 0x1f, 0x01, 0x09, 0x00}, uint16(4095), uint16(1))
	old := memory(1, 5)
	f.Fuzz(func(t *testing.T, delta []byte, at, n uint16) {
		got := bytes.Clone(old)
		if err := ApplyDelta(got, delta); err != nil && !errors.Is(err, ErrProtocol) {
			t.Fatalf("ApplyDelta = %v, want a protocol error", err)
		}
		// Whatever it made, the delta to it must make it again.
		for i := range int(n) {
			got[(int(at)+i*7)%PageSize] ^= byte(i)
		}
		again, ok := AppendDelta(nil, old, got)
		if !ok {
			return
		}
		page := bytes.Clone(old)
		if err := ApplyDelta(page, again); err != nil || !bytes.Equal(page, got) || len(again) >= PageSize/2 {
			t.Fatalf("delta of %d bytes: %v, same page %v", len(again), err, bytes.Equal(page, got))
		}
	})
}

func BenchmarkDelta(b *testing.B) {
	const pages = 256
	r := rand.New(rand.NewPCG(1, 2))
	old := memory(pages, 3)
	for _, c := range []struct{ n, size int }{{0, 0}, {1, 8}, {8, 8}, {4, 100}, {64, 8}, {16, 256}} {
		page := make([][]byte, pages)
		for i := range page {
			page[i] = changed(old[i*PageSize:][:PageSize], r, c.n, c.size)
		}
		b.Run(fmt.Sprintf("append/%dx%d", c.n, c.size), func(b *testing.B) {
			b.SetBytes(pages * PageSize)
			var out []byte
			for b.Loop() {
				out = out[:0]
				for i := range page {
					out, _ = AppendDelta(out, old[i*PageSize:][:PageSize], page[i])
				}
			}
			b.ReportMetric(float64(len(out))/pages, "B/page")
		})
		b.Run(fmt.Sprintf("apply/%dx%d", c.n, c.size), func(b *testing.B) {
			b.SetBytes(pages * PageSize)
			delta := make([][]byte, pages)
			for i := range page {
				delta[i], _ = AppendDelta(nil, old[i*PageSize:][:PageSize], page[i])
			}
			target := bytes.Clone(old)
			for b.Loop() {
				for i := range delta {
					if err := ApplyDelta(target[i*PageSize:][:PageSize], delta[i]); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
