package predump

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// remember makes the table know a page, as a pass does.
func (t *Table) remember(im Image, addr uint64, page []byte) {
	h, _ := t.content(page)
	t.make(im, addr>>pageShift).set(addr>>pageShift, h)
}

func randomPages(n int) []byte {
	b := make([]byte, n*PageSize)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b
}

func TestClassify(t *testing.T) {
	table, im, pages := NewTable(), Image{TaskImage, 1}, randomPages(2)
	a, b := pages[:PageSize], pages[PageSize:]
	const addr = 0x7fff_ffff_e000
	table.remember(im, addr, a)
	for _, c := range []struct {
		name    string
		table   *Table
		im      Image
		addr    uint64
		content []byte
		want    Verdict
	}{
		{"same", table, im, addr, a, Have},
		{"changed", table, im, addr, b, Send},
		{"zeroed", table, im, addr, zeroPage[:], Zero},
		{"next page", table, im, addr + PageSize, a, Send},
		{"other task", table, Image{TaskImage, 2}, addr, a, Send},
		{"other type", table, Image{2, 1}, addr, a, Send},
		{"far away", table, im, addr &^ (1 << 40), a, Send},
		{"no table", nil, im, addr, a, Send},
		{"no table, zeros", nil, im, addr, zeroPage[:], Zero},
	} {
		if got := c.table.Classify(c.im, c.addr, c.content); got != c.want {
			t.Errorf("%s: Classify = %v, want %v", c.name, got, c.want)
		}
	}
	table.remember(im, addr, b)
	if got := table.Classify(im, addr, a); got != Send {
		t.Errorf("Classify of content that was replaced = %v, want %v", got, Send)
	}
	table.remember(im, addr, zeroPage[:])
	if got := table.Classify(im, addr, b); got != Send {
		t.Errorf("Classify after zeros were sent = %v, want %v", got, Send)
	}
}

// TestLastByte: a change anywhere in a page counts.
func TestLastByte(t *testing.T) {
	table, im := NewTable(), Image{TaskImage, 1}
	page := make([]byte, PageSize)
	table.remember(im, 0, page)
	for _, at := range []int{0, 7, 8, 2047, PageSize - 1} {
		page[at] = 1
		if got := table.Classify(im, 0, page); got != Send {
			t.Errorf("byte %d set: Classify = %v, want %v", at, got, Send)
		}
		page[at] = 0
	}
}

func TestSplitAgreesWithClassify(t *testing.T) {
	const n = 300 // more than four blocks
	table, im, data := NewTable(), Image{TaskImage, 1}, randomPages(n)
	base := uint64(0x1000_0000_0000) - 100*PageSize // across every level of the tree
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		page := data[i*PageSize : (i+1)*PageSize]
		switch r.IntN(6) {
		case 0:
			clear(page)
		case 1, 2, 3:
			table.remember(im, base+uint64(i)*PageSize, page)
		}
	}
	var want []Verdict
	for i := range n {
		want = append(want, table.Classify(im, base+uint64(i)*PageSize, data[i*PageSize:(i+1)*PageSize]))
	}
	kept := Run{Zero, 1, 1}
	runs := table.Split([]Run{kept}, im, base, data)
	if runs[0] != kept {
		t.Errorf("Split changed what was in runs: %v", runs[0])
	}
	var got []Verdict
	next := base
	for i, run := range runs[1:] {
		if run.Addr != next || (i > 0 && run.Verdict == runs[i].Verdict) {
			t.Errorf("run %d is %v at %#x, want another verdict at %#x", i, run.Verdict, run.Addr, next)
		}
		got = append(got, slices.Repeat([]Verdict{run.Verdict}, int(run.Pages))...)
		next += run.Pages * PageSize
	}
	if !slices.Equal(got, want) {
		t.Errorf("Split = %v\nClassify = %v", got, want)
	}
}

func TestSeedsDiffer(t *testing.T) {
	page := randomPages(1)
	if NewTable().hash(page) == NewTable().hash(page) {
		t.Error("two tables hash alike")
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	table, pages := NewTable(), randomPages(8)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			im := Image{TaskImage, uint64(w % 2)}
			for i := range 2000 {
				page := pages[i%8*PageSize : (i%8+1)*PageSize]
				addr := uint64(i) * 37 * PageSize
				table.remember(im, addr, page)
				if got := table.Classify(im, addr, page); got != Have {
					t.Errorf("Classify = %v, want %v", got, Have)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestMemoryPerPage(t *testing.T) {
	const pages = 1 << 18 // 1 GiB
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	table, im := NewTable(), Image{TaskImage, 1}
	for i := range uint64(pages) {
		table.make(im, i).set(i, hash{i, i})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	perPage := float64(after.HeapAlloc-before.HeapAlloc) / pages
	t.Logf("%.1f bytes per page", perPage)
	if perPage > 24 {
		t.Errorf("table takes %.1f bytes per page, want at most 24", perPage)
	}
	runtime.KeepAlive(table)
}

func TestSplitDoesNotAllocate(t *testing.T) {
	table, im, data := NewTable(), Image{TaskImage, 1}, randomPages(64)
	runs := make([]Run, 0, 64)
	if n := testing.AllocsPerRun(10, func() { runs = table.Split(runs[:0], im, 0, data) }); n != 0 {
		t.Errorf("Split allocates %v times, want 0", n)
	}
}

func BenchmarkHash(b *testing.B) {
	table, data := NewTable(), randomPages(4096)
	b.SetBytes(int64(len(data)))
	var sum hash
	for b.Loop() {
		for i := 0; i < len(data); i += PageSize {
			sum = table.hash(data[i : i+PageSize])
		}
	}
	runtime.KeepAlive(sum)
}

func BenchmarkClassify(b *testing.B) {
	table, im, data := NewTable(), Image{TaskImage, 1}, randomPages(4096)
	for i := 0; i < len(data); i += PageSize {
		table.remember(im, uint64(i), data[i:i+PageSize])
	}
	runs := make([]Run, 0, 16)
	for name, c := range map[string]struct {
		im   Image
		data []byte
	}{
		"have": {im, data}, "unknown": {Image{TaskImage, 2}, data}, "zero": {im, make([]byte, len(data))},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				runs = table.Split(runs[:0], c.im, 0, c.data)
			}
		})
	}
}
