package pagestore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"migrate/criu"
	"migrate/internal/lazymap"
	"migrate/transport"
)

// A memory is a modelled workload's: image to address to content.
type memory map[criu.PageImage]map[uint64][]byte

var modelImages = []criu.PageImage{taskImage, {Type: criu.TaskImage, ID: 9}, {Type: criu.ShmemImage, ID: 7}}

const modelPages = 192 // of address space in each image

// TestModel lets modelled memory change between rounds, sends it in every way
// that there is, and demands that what would be restored is its last state and
// nothing else.
func TestModel(t *testing.T) {
	for seed := range uint64(25) {
		for _, lazy := range []bool{false, true} {
			t.Run(fmt.Sprintf("seed %d lazy %v", seed, lazy), func(t *testing.T) {
				m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: memory{}, target: memory{}}
				m.s = newStore(t, 64<<20, lazy)
				m.run()
			})
		}
	}
}

type model struct {
	t           *testing.T
	rng         *rand.Rand
	s           *Store
	now, target memory // as the workload is, and as the target has been told
}

func (m *model) run() {
	for _, im := range modelImages {
		m.now[im], m.target[im] = map[uint64][]byte{}, map[uint64][]byte{}
	}
	m.mutate(0.5)
	rounds := m.rng.IntN(4)
	for round := 1; round <= rounds; round++ {
		m.round(uint32(round), false)
		m.mutate(0.2)
	}
	if m.rng.IntN(3) == 0 {
		m.breakOff(uint32(rounds + 1))
	}
	m.round(uint32(rounds+1), true)
	m.sums()
	finish(m.t, m.s)
	pages := 0
	for _, im := range modelImages {
		compare(m.t, readBack(m.t, m.s, im), m.now[im])
		pages += len(m.now[im])
	}
	if m.s.Verified() != uint64(pages) {
		m.t.Errorf("%d pages verified of %d", m.s.Verified(), pages)
	}
}

// breakOff sends a final list whose second half never arrives. Of the pages in
// it the source then knows nothing.
func (m *model) breakOff(round uint32) {
	whole := m.now
	m.now = memory{}
	for _, im := range modelImages[:2] {
		m.now[im] = whole[im]
	}
	m.round(round, true)
	if begun, err := m.s.Unlist(); !begun || err != nil {
		m.t.Fatalf("Unlist() = %v, %v", begun, err)
	}
	for _, im := range modelImages[:2] {
		m.target[im] = map[uint64][]byte{}
	}
	m.now = whole
}

// mutate changes a share of all pages. Contents are few, so that there are
// duplicates, and many differ little.
func (m *model) mutate(share float64) {
	for _, im := range modelImages {
		for i := range uint64(modelPages) {
			if m.rng.Float64() > share {
				continue
			}
			a := (i + 16) * pageSize
			page := bytes.Repeat([]byte{byte(m.rng.IntN(5))}, pageSize)
			if m.rng.IntN(3) == 0 {
				page[m.rng.IntN(pageSize)] = 0xee
			}
			m.now[im][a] = page
			if m.rng.IntN(4) == 0 {
				delete(m.now[im], a)
			}
		}
	}
}

func (m *model) round(round uint32, final bool) {
	for _, im := range modelImages {
		b := transport.Batch{Round: round}
		for i := range uint64(modelPages + 32) {
			a := i * pageSize
			if now, ok := m.now[im][a]; ok && (final || m.rng.IntN(4) > 0) {
				m.tell(&b, im, a, now, final)
			}
			if m.rng.IntN(20) == 0 {
				m.send(&b)
			}
		}
		m.send(&b)
	}
}

func (m *model) send(b *transport.Batch) {
	if len(b.Pieces) > 0 {
		apply(m.t, m.s, *b)
	}
	*b = transport.Batch{Round: b.Round, Seq: b.Seq + 1}
}

// tell adds one page in one of the ways that are possible.
func (m *model) tell(b *transport.Batch, im criu.PageImage, a uint64, now []byte, final bool) {
	p := transport.Piece{Kind: transport.PieceData, ImageType: uint8(im.Type), Image: im.ID, Address: a, Pages: 1}
	if final {
		p.Flags = present
		if a/pageSize%16 < 12 && im.Type == criu.TaskImage {
			p.Flags = uint8(criu.PageParent | criu.PageLazy)
		}
	}
	before, had := m.target[im][a]
	m.target[im][a] = now
	if had && bytes.Equal(before, now) {
		p.Kind = transport.PieceHave
		b.Add(p, nil)
		return
	}
	if bytes.Equal(now, make([]byte, pageSize)) {
		p.Kind = transport.PieceZero
		b.Add(p, nil)
		return
	}
	if delta, ok := transport.AppendDelta(nil, before, now); ok && m.rng.IntN(2) == 0 {
		p.Kind = transport.PieceDelta
		b.Add(p, delta)
		return
	}
	if r, ok := m.equal(im, a, now); ok && m.rng.IntN(2) == 0 {
		p.Kind = transport.PieceCopy
		b.Add(p, transport.AppendRef(nil, r))
		return
	}
	b.Add(p, now)
}

// equal finds another page that the target has with this content.
func (m *model) equal(im criu.PageImage, a uint64, content []byte) (transport.Ref, bool) {
	for other, pages := range m.target {
		for oa, c := range pages {
			if (other != im || oa != a) && bytes.Equal(c, content) {
				return transport.Ref{ImageType: uint8(other.Type), Image: other.ID, Address: oa}, true
			}
		}
	}
	return transport.Ref{}, false
}

func (m *model) sums() {
	for im, pages := range m.now {
		b := transport.Batch{Round: 99}
		for a, page := range pages {
			sum := transport.PageSum(page)
			b.Add(transport.Piece{Kind: transport.PieceSum, ImageType: uint8(im.Type), Image: im.ID, Address: a, Pages: 1}, sum[:])
		}
		m.send(&b)
	}
}

// readBack reads an image as CRIU and the supervisor do: the pagemap's entries
// in order, pages of the parent out of base/, lazy ones by the map.
func readBack(t *testing.T, s *Store, id criu.PageImage) map[uint64][]byte {
	t.Helper()
	out, base := map[uint64][]byte{}, map[uint64][]byte{}
	parent := filepath.Join(s.Images(), "parent")
	if _, err := os.Stat(filepath.Join(parent, id.PagemapName())); err == nil {
		readDir(t, parent, id, base, nil, nil)
	}
	var m lazymap.Map
	if s.lazy {
		var err error
		if m, err = lazymap.Read(s.LazyMap()); err != nil {
			t.Fatal(err)
		}
	}
	readDir(t, s.Images(), id, out, base, func(a uint64) []byte {
		file, slot, _, ok := m.Find(id.ID, a)
		if !ok {
			t.Fatalf("page %#x of %v is not in the lazy map", a, id)
		}
		return readSlot(t, filepath.Join(filepath.Dir(s.LazyMap()), m.Files[file]), slot)
	})
	return out
}

func readSlot(t *testing.T, path string, slot uint64) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, pageSize)
	if _, err := f.ReadAt(page, int64(slot)*pageSize); err != nil {
		t.Fatal(err)
	}
	return page
}

func readDir(t *testing.T, dir string, id criu.PageImage, out, parent map[uint64][]byte, lazy func(uint64) []byte) {
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
			switch e.Flags {
			case criu.PageLazy:
				out[a] = lazy(a)
			case criu.PageParent:
				if out[a] = parent[a]; out[a] == nil {
					t.Fatalf("page %#x of %v is said to be in the parent, and is not", a, id)
				}
			case criu.PagePresent:
				out[a], pages = pages[:pageSize], pages[pageSize:]
			default:
				t.Fatalf("page %#x of %v has flags %#x", a, id, e.Flags)
			}
		}
	}
	if len(pages) != 0 {
		t.Errorf("%s: %d bytes of pages that no entry names", dir, len(pages))
	}
}
