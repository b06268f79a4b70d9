package pages

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"migrate"
	"migrate/transport"
)

// Out takes encoded batches in the order of their numbers. [transport.PageStreams]
// is one.
type Out interface {
	Write(ctx context.Context, frame []byte) error
	End(ctx context.Context) ([]transport.StreamDigest, error)
}

// A sender encodes batches on every core and writes them in the order in which
// they were given. Its methods are for one goroutine.
type sender struct {
	outer context.Context // of the caller
	ctx   context.Context // ends with the first error of a worker
	group *errgroup.Group
	work  chan *job
	order chan *job
	seq   uint64
	round int
	path  *Path
	out   Out
	stats *roundStats
	end   sync.Once
	over  func() ([]transport.StreamDigest, error)
}

// fill puts content into a batch, on an encoder's goroutine.
type fill func(*encoder, *transport.Batch) error

// A job is one batch on its way.
type job struct {
	seq   uint64
	fill  fill
	frame []byte
	ready chan struct{}
}

// newSender starts the workers. run runs each encoder.
func newSender(ctx context.Context, p *Path, out Out, round int, run func(func() error) error) *sender {
	workers := runtime.GOMAXPROCS(0)
	group, inner := errgroup.WithContext(ctx)
	s := &sender{
		outer: ctx, ctx: inner, group: group, out: out, round: round, path: p,
		work:  make(chan *job, 2*workers),
		order: make(chan *job, 4*workers),
		stats: &roundStats{Round: migrate.Round{Round: round}},
	}
	s.over = sync.OnceValues(s.conclude)
	for range workers {
		group.Go(func() error { return run(s.encode) })
	}
	group.Go(s.write)
	return s
}

// send queues one batch.
func (s *sender) send(f fill) error {
	j := &job{seq: s.seq, fill: f, ready: make(chan struct{})}
	s.seq++
	for _, c := range []chan *job{s.order, s.work} {
		select {
		case c <- j:
		case <-s.ctx.Done():
			return s.failure()
		}
	}
	return nil
}

// failure is why the workers stopped: the error of the one that failed.
func (s *sender) failure() error {
	if s.outer.Err() != nil {
		return context.Cause(s.outer)
	}
	s.end.Do(func() { close(s.work); close(s.order) })
	return errors.Join(s.group.Wait(), errStopped)
}

var errStopped = errors.New("sending has stopped")

func (s *sender) encode() error {
	e := newEncoder(s.path, s.round)
	for j := range s.work {
		frame, err := s.encodeJob(e, j)
		if err != nil {
			return err
		}
		j.frame = frame
		close(j.ready)
	}
	return nil
}

func (s *sender) encodeJob(e *encoder, j *job) ([]byte, error) {
	b := &e.batch
	b.Round, b.Seq, b.Pieces, b.Data = uint32(s.round), j.seq, b.Pieces[:0], b.Data[:0]
	if err := j.fill(e, b); err != nil {
		return nil, err
	}
	s.stats.count(b)
	return s.path.pace.Encode(nil, b)
}

func (s *sender) write() error {
	for j := range s.order {
		select {
		case <-j.ready:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		begun := time.Now()
		if err := s.out.Write(s.ctx, j.frame); err != nil {
			return err
		}
		s.path.pace.Blocked(time.Since(begun))
	}
	return nil
}

// finish waits until everything is written and ends the streams. It may be
// called again.
func (s *sender) finish() ([]transport.StreamDigest, error) { return s.over() }

func (s *sender) conclude() ([]transport.StreamDigest, error) {
	s.end.Do(func() { close(s.work); close(s.order) })
	if err := s.group.Wait(); err != nil {
		return nil, err
	}
	return s.out.End(s.outer)
}
