package source

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"migrate"
	"migrate/transport"
)

// batchBytes is the content of one batch: the knee of ratio and speed.
const batchBytes = 256 << 10

const pageSize = 4096

// A sender turns pages into batches, encodes them on every core and writes
// them to one stream in the order in which they were given. Its methods are
// for one goroutine.
type sender struct {
	outer context.Context // of the caller
	ctx   context.Context // ends with the first error of a worker
	group *errgroup.Group
	work  chan *job
	order chan *job
	seq   uint64
	round uint32
	codec transport.Codec
	out   *transport.PageWriter
	stats *roundStats
	end   sync.Once
}

// A job is one batch on its way. fill runs on a worker.
type job struct {
	seq   uint64
	fill  func(*transport.Batch) error
	frame []byte
	ready chan struct{}
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
		s.Pages += n
		switch p.Kind {
		case transport.PieceData:
			s.Sent += n
		case transport.PieceZero:
			s.Zero += n
		case transport.PieceHave:
			s.Unchanged += n
		}
	}
}

// newSender starts the workers. Callers must call finish, also after an error.
func newSender(ctx context.Context, out *transport.PageWriter, round int, codec transport.Codec) *sender {
	workers := runtime.GOMAXPROCS(0)
	group, inner := errgroup.WithContext(ctx)
	s := &sender{
		outer: ctx, ctx: inner, group: group, out: out, round: uint32(round), codec: codec,
		work:  make(chan *job, 2*workers),
		order: make(chan *job, 4*workers),
		stats: &roundStats{Round: migrate.Round{Round: round}},
	}
	for range workers {
		group.Go(s.encode)
	}
	group.Go(s.write)
	return s
}

// send queues one batch; fill is called later, on another goroutine.
func (s *sender) send(fill func(*transport.Batch) error) error {
	j := &job{seq: s.seq, fill: fill, ready: make(chan struct{})}
	s.seq++
	for _, c := range []chan *job{s.order, s.work} {
		select {
		case c <- j:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	return nil
}

func (s *sender) encode() error {
	var b transport.Batch
	for j := range s.work {
		b.Round, b.Seq, b.Pieces, b.Data = s.round, j.seq, b.Pieces[:0], b.Data[:0]
		if err := j.fill(&b); err != nil {
			return err
		}
		s.stats.count(&b)
		frame, err := transport.EncodeBatch(nil, &b, s.codec)
		if err != nil {
			return err
		}
		j.frame = frame
		close(j.ready)
	}
	return nil
}

func (s *sender) write() error {
	for j := range s.order {
		select {
		case <-j.ready:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		if err := s.out.WriteEncoded(s.ctx, j.frame); err != nil {
			return err
		}
	}
	return nil
}

// finish waits until everything is written and ends the stream.
func (s *sender) finish() (transport.StreamDigest, error) {
	s.end.Do(func() { close(s.work); close(s.order) })
	if err := s.group.Wait(); err != nil {
		return transport.StreamDigest{}, err
	}
	return s.out.End(s.outer)
}
