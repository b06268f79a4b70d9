package fill

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// pages makes pieces of what is written per page: the page of the content, or
// -1 where nothing is missing.
func pagesOf(m missing, n int) []int {
	got := make([]int, n)
	for i := range got {
		got[i] = -1
		if p, ok := m.at(uint64(i) * pageSize); ok {
			got[i] = int(p.within(uint64(i)*pageSize, p.end()).offset / pageSize)
		}
	}
	return got
}

// The list must do what a plain array of pages does.
func TestMissing(t *testing.T) {
	const n = 40
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		m := missing{{addr: 0, size: n * pageSize / 2}}
		want := make([]int, n)
		for i := range want {
			want[i] = i
			if i >= n/2 {
				want[i] = -1
			}
		}
		for range 30 {
			from, size := r.IntN(n), 1+r.IntN(8)
			size = min(size, n-from)
			a, b := uint64(from)*pageSize, uint64(from+size)*pageSize
			switch r.IntN(3) {
			case 0:
				var removed uint64
				for _, p := range m.remove(a, b) {
					removed += p.size / pageSize
				}
				for i := from; i < from+size; i++ {
					if want[i] >= 0 {
						removed--
					}
					want[i] = -1
				}
				if removed != 0 {
					t.Fatalf("removed %d pages more than there were", int64(removed))
				}
			case 1:
				to := r.IntN(n - size + 1)
				if to < from+size && from < to+size {
					continue // mremap(2) refuses that
				}
				m.move(a, uint64(to)*pageSize, b-a)
				copy(want[to:to+size], want[from:from+size])
				for i := from; i < from+size; i++ {
					want[i] = -1
				}
			case 2:
				m.add(piece{addr: a, size: b - a, offset: a})
				for i := from; i < from+size; i++ {
					want[i] = i
				}
			}
			if got := pagesOf(m, n); !slices.Equal(got, want) {
				t.Fatalf("got  %v\nwant %v", got, want)
			}
			for i := 1; i < len(m); i++ {
				if m[i-1].end() > m[i].addr || m[i].size == 0 {
					t.Fatalf("not in order: %v", m)
				}
			}
		}
	}
}

func TestContentLess(t *testing.T) {
	c := func(file int, offset, size uint64) piece { return piece{file: file, offset: offset, size: size} }
	for _, tt := range []struct {
		all, still, want []piece
	}{
		{[]piece{c(0, 0, 10)}, nil, []piece{c(0, 0, 10)}},
		{[]piece{c(0, 0, 10)}, []piece{c(0, 0, 10)}, nil},
		{[]piece{c(0, 0, 10)}, []piece{c(0, 2, 3), c(0, 7, 3)}, []piece{c(0, 0, 2), c(0, 5, 2)}},
		{[]piece{c(0, 0, 10), c(0, 10, 10)}, []piece{c(0, 5, 10)}, []piece{c(0, 0, 5), c(0, 15, 5)}},
		{[]piece{c(0, 0, 4), c(1, 0, 4)}, []piece{c(1, 0, 1)}, []piece{c(0, 0, 4), c(1, 1, 3)}},
		{[]piece{c(0, 8, 4), c(2, 0, 4)}, []piece{c(0, 0, 4), c(1, 0, 9), c(2, 3, 1)}, []piece{c(0, 8, 4), c(2, 0, 3)}},
	} {
		if got := contentLess(tt.all, tt.still); !slices.Equal(got, tt.want) {
			t.Errorf("contentLess(%v, %v) = %v, want %v", tt.all, tt.still, got, tt.want)
		}
	}
}

func TestLeadingRun(t *testing.T) {
	b := make([]byte, 5*pageSize)
	b[2*pageSize+7] = 1
	for _, tt := range []struct {
		at, size int
		zero     bool
	}{{0, 2, true}, {2, 1, false}, {3, 2, true}} {
		size, zero := leadingRun(b[tt.at*pageSize:])
		if size != tt.size*pageSize || zero != tt.zero {
			t.Errorf("from page %d: %d bytes, zero %v", tt.at, size, zero)
		}
	}
}
