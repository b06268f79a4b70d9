package pages

import (
	"context"
	"sync"

	"migrate"
	"migrate/internal/priority"
	"migrate/predump"
	"migrate/transport"
)

// A Round is one pass over memory, on its way. It is a [predump.Sink]. Its
// methods are for one goroutine.
type Round struct {
	*sender
	path *Path
	raw  *transport.Batch // what is gathered and not yet given to the encoders
	sent spans
}

// Begin begins round n (from 1) on out. Its encoders give way to the workload,
// which runs. Callers must call Finish, also after an error.
func (p *Path) Begin(ctx context.Context, out Out, n int) *Round {
	return p.begin(ctx, out, n, priority.Low)
}

func (p *Path) begin(ctx context.Context, out Out, n int, run func(func() error) error) *Round {
	r := &Round{path: p, raw: new(transport.Batch)}
	r.sender = newSender(ctx, p, out, n, run)
	return r
}

// Data implements [predump.Sink].
func (r *Round) Data(_ context.Context, im predump.Image, address uint64, data []byte) error {
	first := address / pageSize
	for ; len(data) > 0; data, address = data[pageSize:], address+pageSize {
		r.page(im, address, first, data[:pageSize])
		if err := r.flushIfFull(); err != nil {
			return err
		}
	}
	return nil
}

// page adds one page, or where the target finds its content.
func (r *Round) page(im predump.Image, address, first uint64, page []byte) {
	r.sent.add(r.seq, im, address, 1)
	p := transport.Piece{Kind: transport.PieceData, ImageType: im.Type, Image: im.ID, Address: address, Pages: 1}
	ref, ok := r.path.dups.find(place{im, address / pageSize}, first, page)
	if !ok {
		r.raw.Add(p, page)
		return
	}
	p.Kind = transport.PieceCopy
	r.path.cache.drop(im, address, 1)
	r.raw.Add(p, transport.AppendRef(nil, ref))
}

// Zero implements [predump.Sink].
func (r *Round) Zero(_ context.Context, im predump.Image, address, pages uint64) error {
	r.path.cache.drop(im, address, pages)
	for pages > 0 {
		n := min(pages, maxRun)
		r.sent.add(r.seq, im, address, n)
		r.raw.Add(transport.Piece{Kind: transport.PieceZero, ImageType: im.Type, Image: im.ID, Address: address, Pages: uint32(n)}, nil)
		address, pages = address+n*pageSize, pages-n
		if err := r.flushIfFull(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Round) flushIfFull() error {
	if len(r.raw.Data) < batchBytes && len(r.raw.Pieces) < maxPieces {
		return nil
	}
	return r.Flush()
}

// Flush hands over what is gathered, although it is little.
func (r *Round) Flush() error {
	if len(r.raw.Pieces) == 0 {
		return nil
	}
	raw := r.raw
	r.raw = new(transport.Batch)
	return r.send(func(e *encoder, b *transport.Batch) error { return e.shrink(b, raw) })
}

// Finish waits until everything is written and ends the streams.
func (r *Round) Finish() ([]transport.StreamDigest, error) {
	err := r.Flush()
	digests, ferr := r.finish()
	if ferr != nil {
		return nil, ferr
	}
	return digests, err
}

// Stats counts what became of the round's pages, after Finish.
func (r *Round) Stats() migrate.Round { return r.stats.Round }

// Forget makes table forget what the target did not get of a round whose link
// broke: it has applied the first applied batches.
func (r *Round) Forget(table *predump.Table, applied uint64) {
	for _, s := range r.sent {
		if s.seq >= applied {
			table.Forget(s.im, s.address, s.pages)
		}
	}
}

// spans remember which batch holds which pages.
type spans []span

type span struct {
	seq            uint64
	im             predump.Image
	address, pages uint64
}

func (s *spans) add(seq uint64, im predump.Image, address, pages uint64) {
	if n := len(*s); n > 0 {
		last := &(*s)[n-1]
		if last.seq == seq && last.im == im && last.address+last.pages*pageSize == address {
			last.pages += pages
			return
		}
	}
	*s = append(*s, span{seq, im, address, pages})
}

// roundStats counts what a round did with its pages.
type roundStats struct {
	mu sync.Mutex
	migrate.Round
}

func (s *roundStats) count(b *transport.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range b.Pieces {
		n := uint64(p.Pages)
		if p.Kind != transport.PieceSum {
			s.Pages += n
		}
		switch p.Kind {
		case transport.PieceData:
			s.Sent += n
		case transport.PieceDelta:
			s.Delta += n
		case transport.PieceCopy:
			s.Duplicate += n
		case transport.PieceZero:
			s.Zero += n
		case transport.PieceHave:
			s.Unchanged += n
		}
	}
}
