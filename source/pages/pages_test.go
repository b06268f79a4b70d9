package pages

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/predump"
	"migrate/transport"
)

// target is an Out that does what a target does: it applies every batch in
// order, and refuses what it could not apply.
type target struct {
	t     *testing.T
	pages map[place][]byte
	list  []transport.Piece
	next  uint64
	sums  int
	fail  error // for the batch after failAt
	at    uint64
}

func (o *target) Write(_ context.Context, frame []byte) error {
	var b transport.Batch
	if err := transport.DecodeBatch(frame, &b); err != nil {
		o.t.Error(err)
		return err
	}
	if o.fail != nil && b.Seq == o.at {
		return o.fail
	}
	if b.Seq != o.next {
		o.t.Errorf("batch %d where %d was due", b.Seq, o.next)
	}
	o.next++
	for p, content := range b.All() {
		o.apply(p, content)
	}
	return nil
}

func (o *target) End(context.Context) ([]transport.StreamDigest, error) {
	o.next = 0
	return nil, nil
}

func (o *target) apply(p transport.Piece, content []byte) {
	im := predump.Image{Type: p.ImageType, ID: p.Image}
	if p.Flags != 0 {
		o.list = append(o.list, p)
	}
	for i := range uint64(p.Pages) {
		k := place{im, p.Address/pageSize + i}
		switch p.Kind {
		case transport.PieceData:
			o.pages[k] = bytes.Clone(content[i*pageSize : (i+1)*pageSize])
		case transport.PieceZero:
			o.pages[k] = make([]byte, pageSize)
		case transport.PieceDelta:
			if err := transport.ApplyDelta(o.pages[k], content); err != nil {
				o.t.Errorf("delta of page %#x: %v", k.page, err)
			}
		case transport.PieceCopy:
			ref, err := transport.ParseRef(content)
			if err != nil {
				o.t.Error(err)
			}
			from := o.pages[place{predump.Image{Type: ref.ImageType, ID: ref.Image}, ref.Address/pageSize + i}]
			if from == nil {
				o.t.Errorf("copy of page %#x, which is not there", ref.Address)
			}
			o.pages[k] = bytes.Clone(from)
		case transport.PieceHave:
			if o.pages[k] == nil {
				o.t.Errorf("page %#x is said to be there", k.page)
			}
		case transport.PieceSum:
			o.sums++
			if s := transport.PageSum(o.pages[k]); !bytes.Equal(s[:], content[i*16:(i+1)*16]) {
				o.t.Errorf("page %#x differs", k.page)
			}
		}
	}
}

var image = predump.Image{Type: predump.TaskImage, ID: 7}

// world is memory of this process that is "moved".
type world struct {
	memory []byte
	base   uint64
	rng    *rand.Rand
}

func newWorld(t *testing.T, pages int) *world {
	m, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(m) })
	return &world{m, uint64(uintptr(unsafe.Pointer(&m[0]))), rand.New(rand.NewPCG(1, 2))}
}

func (w *world) page(i int) []byte { return w.memory[i*pageSize : (i+1)*pageSize] }

func (w *world) pages() int { return len(w.memory) / pageSize }

func (w *world) noise(i int) {
	for j := 0; j < pageSize; j += 8 {
		*(*uint64)(unsafe.Pointer(&w.page(i)[j])) = w.rng.Uint64()
	}
}

// disturb does to some pages what programs do.
func (w *world) disturb() {
	for range w.pages() / 8 {
		i, j := w.rng.IntN(w.pages()), w.rng.IntN(w.pages())
		switch w.rng.IntN(5) {
		case 0:
			w.noise(i)
		case 1:
			clear(w.page(i))
		case 2:
			copy(w.page(i), w.page(j))
		default:
			w.page(i)[w.rng.IntN(pageSize)]++
		}
	}
}

// PreDump implements [predump.PreDumper]: every page may have changed.
func (w *world) PreDump(ctx context.Context, _ int, to predump.PageSink) error {
	return to.Data(ctx, image, w.base, w.memory)
}

func (w *world) tracker(t *predump.Table) predump.Tracker { return predump.NewSoftDirty(t, w) }

// round sends what changed.
func (w *world) round(t predump.Tracker, r *Round) error {
	_, err := t.Round(context.Background(), func() []predump.Task { return nil }, r)
	_, ferr := r.Finish()
	return errors.Join(err, ferr)
}

func (w *world) read(_ predump.Image, address uint64, buf []byte) error {
	copy(buf, w.memory[address-w.base:])
	return nil
}

func (w *world) compare(t *testing.T, o *target) {
	t.Helper()
	for i := range w.pages() {
		if got := o.pages[place{image, w.base/pageSize + uint64(i)}]; !bytes.Equal(got, w.page(i)) {
			t.Fatalf("page %d of %d is not on the target as it is here", i, w.pages())
		}
	}
}

// TestRounds sends memory over many rounds in every form there is, and demands
// that the target has the same after the last.
func TestRounds(t *testing.T) {
	for _, cache := range []uint64{0, 40 * pageSize, 64 << 20} {
		w := newWorld(t, 2000)
		for i := range w.pages() {
			w.noise(i)
		}
		table := predump.NewTable()
		p, err := New(Options{Table: table, DeltaCache: cache, Lowest: transport.CodecNone, Highest: transport.CodecZstd3})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		tracker, o := w.tracker(table), &target{t: t, pages: map[place][]byte{}}
		var deltas, copies uint64
		for n := 1; n < 12; n++ {
			r := p.Begin(t.Context(), o, n)
			if err := w.round(tracker, r); err != nil {
				t.Fatal(err)
			}
			deltas, copies = deltas+r.Stats().Delta, copies+r.Stats().Duplicate
			w.disturb()
		}
		if cache == 0 && deltas > 0 || cache > 1<<20 && deltas == 0 || copies == 0 {
			t.Errorf("cache of %d: %d differences, %d copies", cache, deltas, copies)
		}
		f := p.BeginFinal(t.Context(), o, 12, w.read)
		for i := range w.pages() { // nobody vouches for anything
			if err := f.Unsure(image, w.base+uint64(i)*pageSize, 1, 4, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sum(image, w.base, uint64(w.pages())); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Finish(); err != nil {
			t.Fatal(err)
		}
		w.compare(t, o)
		if o.sums != w.pages() || len(o.list) == 0 || f.Stats().Pages != uint64(w.pages()) {
			t.Errorf("%d sums, %d pieces listed, stats %+v", o.sums, len(o.list), f.Stats())
		}
	}
}

// TestCopyOfWhatIsGone gives pages each other's content in one go: what was in a
// page before is not on the target any more once that page has been sent.
func TestCopyOfWhatIsGone(t *testing.T) {
	w := newWorld(t, 200)
	for i := range w.pages() {
		w.noise(i)
	}
	table := predump.NewTable()
	p, err := New(Options{Table: table, DeltaCache: 64 << 20, Lowest: transport.CodecNone, Highest: transport.CodecZstd3})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	tracker, o := w.tracker(table), &target{t: t, pages: map[place][]byte{}}
	var copies uint64
	for n := 1; n < 6; n++ {
		r := p.Begin(t.Context(), o, n)
		if err := w.round(tracker, r); err != nil {
			t.Fatal(err)
		}
		w.compare(t, o)
		copies += r.Stats().Duplicate
		before := bytes.Clone(w.memory)
		for i := range w.pages() { // each gets what its neighbour had, by turns the one before and the one after
			j := (i + w.pages() + 1 - 2*(n%2)) % w.pages()
			copy(w.page(i), before[j*pageSize:(j+1)*pageSize])
		}
	}
	if copies == 0 {
		t.Error("no copies")
	}
}

// TestFinalContent lists pages whose content comes with the list, in order and
// with their flags.
func TestFinalContent(t *testing.T) {
	w := newWorld(t, 300)
	for i := range w.pages() {
		if i%3 != 0 {
			w.noise(i)
		}
	}
	p, err := New(Options{Table: predump.NewTable(), Lowest: transport.CodecS2, Highest: transport.CodecS2})
	if err != nil {
		t.Fatal(err)
	}
	o := &target{t: t, pages: map[place][]byte{}}
	f := p.BeginFinal(t.Context(), o, 1, nil)
	if err := f.Unsure(image, w.base, uint64(w.pages()), 6, bytes.NewReader(w.memory)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Finish(); err != nil {
		t.Fatal(err)
	}
	w.compare(t, o)
	next := w.base
	for _, piece := range o.list {
		if piece.Address != next || piece.Flags != 6 {
			t.Fatalf("piece %+v, want one at %#x", piece, next)
		}
		next += uint64(piece.Pages) * pageSize
	}
	if s := f.Stats(); s.Zero != 100 || s.Sent != 200 || next != w.base+uint64(len(w.memory)) {
		t.Errorf("stats %+v, list up to %#x", s, next)
	}
}

// TestBrokenRound breaks the link in a round, and demands that later rounds
// send again what the target did not get, but no difference to it.
func TestBrokenRound(t *testing.T) {
	w := newWorld(t, 3000)
	for i := range w.pages() {
		w.noise(i)
	}
	table := predump.NewTable()
	p, err := New(Options{Table: table, DeltaCache: 64 << 20, Lowest: transport.CodecNone, Highest: transport.CodecZstd3})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	tracker, o := w.tracker(table), &target{t: t, pages: map[place][]byte{}}
	for n := 1; n < 8; n++ {
		broken := n%2 == 0
		if broken {
			for i := range w.pages() {
				w.page(i)[0]++
			}
			o.fail, o.at = errors.New("cut"), uint64(3+n)
		}
		r := p.Begin(t.Context(), o, n)
		if err := w.round(tracker, r); (err != nil) != broken {
			t.Fatalf("round %d: %v", n, err)
		}
		if broken {
			p.Forget()
			r.Forget(table, o.next)
			o.fail, o.next = nil, 0
		}
	}
	w.compare(t, o)
}

func TestFailedFill(t *testing.T) {
	p, err := New(Options{Table: predump.NewTable(), Lowest: transport.CodecS2, Highest: transport.CodecS2})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	f := p.BeginFinal(t.Context(), &target{t: t, pages: map[place][]byte{}}, 1, func(predump.Image, uint64, []byte) error { return broken })
	for i := range uint64(1000) {
		if err = f.Unsure(image, i*batchBytes, batchPages, 4, nil); err != nil {
			break
		}
	}
	if _, ferr := f.Finish(); !errors.Is(ferr, broken) {
		t.Errorf("Finish() = %v after %v, want the reader's error", ferr, err)
	}
}
