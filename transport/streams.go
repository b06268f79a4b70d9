package transport

import (
	"context"
	"sync"
)

// PageStreams sends the batches of one round over several page streams: a frame
// goes to whichever of them is free. Write and End are for one goroutine.
type PageStreams struct {
	ctx     context.Context // ends with the first error of a stream
	cancel  context.CancelCauseFunc
	writers []*PageWriter
	frames  chan queued
	ahead   ahead
	work    sync.WaitGroup
}

// queued is a frame with its place in the round.
type queued struct {
	n     uint64
	frame []byte
}

// OpenPageStreams opens n streams for one round. ctx is for all that they do:
// when it ends before End has returned, the streams are lost. A caller that
// does not come to call End must end ctx.
func (s *Session) OpenPageStreams(ctx context.Context, n int) (*PageStreams, error) {
	p := &PageStreams{frames: make(chan queued), ahead: ahead{room: make(chan struct{}, 1)}}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	for range max(n, 1) {
		w, err := s.OpenPages(ctx)
		if err != nil {
			return nil, p.giveUp(err)
		}
		p.writers = append(p.writers, w)
	}
	for _, w := range p.writers {
		p.work.Go(func() { p.run(w) })
	}
	return p, nil
}

// Write sends a frame made by [EncodeBatch], which from then on belongs to the
// streams. Seq must be 0 in the first and rise by one. Write returns once a
// stream has begun with the frame; until then it waits for the
// network, which is what [Adaptive.Blocked] wants to know. After
// an error the round is lost.
func (p *PageStreams) Write(ctx context.Context, frame []byte) error {
	stop := context.AfterFunc(ctx, func() { p.cancel(context.Cause(ctx)) })
	defer stop()
	n, err := p.ahead.begin(p.ctx, len(frame))
	if err != nil {
		return err
	}
	select {
	case p.frames <- queued{n, frame}:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// End waits until everything is sent, ends the streams, and returns what the
// readers must find, in the order in which the streams were opened. It is
// called once, as the last.
func (p *PageStreams) End(ctx context.Context) ([]StreamDigest, error) {
	stop := context.AfterFunc(ctx, func() { p.cancel(context.Cause(ctx)) })
	defer stop()
	close(p.frames)
	p.work.Wait()
	if err := context.Cause(p.ctx); err != nil {
		return nil, p.giveUp(err)
	}
	digests := make([]StreamDigest, len(p.writers))
	for i, w := range p.writers {
		var err error
		if digests[i], err = w.End(p.ctx); err != nil {
			return nil, p.giveUp(err)
		}
	}
	p.cancel(nil)
	return digests, nil
}

// giveUp loses the streams: their readers learn that no end will come.
func (p *PageStreams) giveUp(err error) error {
	p.cancel(err)
	for _, w := range p.writers {
		w.abandon(err)
	}
	return err
}

// run writes what it gets on one stream.
func (p *PageStreams) run(w *PageWriter) {
	for {
		select {
		case f, ok := <-p.frames:
			if !ok {
				return
			}
			if err := w.WriteEncoded(p.ctx, f.frame); err != nil {
				p.cancel(err)
			}
			p.ahead.end(f.n)
		case <-p.ctx.Done():
			w.abandon(context.Cause(p.ctx))
			return
		}
	}
}

// ahead bounds how far the fastest stream is ahead of the slowest. The receiver
// stores in order: what comes too early waits in its window for the connection,
// and if it filled that, the batch that is due could not come through.
type ahead struct {
	mu    sync.Mutex
	first uint64 // number of begun[0]
	begun []begun
	bytes int           // of begun
	room  chan struct{} // has a value when some frame has ended
}

// begun is a frame that some stream has begun with, or that is behind one.
type begun struct {
	size  int
	ended bool
}

// begin waits until a frame may be sent, and returns its number.
func (a *ahead) begin(ctx context.Context, size int) (uint64, error) {
	for {
		if n, ok := a.try(size); ok {
			return n, nil
		}
		select {
		case <-a.room:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (a *ahead) try(size int) (n uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.begun) > 0 && a.bytes+size > MaxAhead {
		return 0, false
	}
	a.begun = append(a.begun, begun{size: size})
	a.bytes += size
	return a.first + uint64(len(a.begun)) - 1, true
}

// end counts frame n as sent.
func (a *ahead) end(n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun[n-a.first].ended = true
	for len(a.begun) > 0 && a.begun[0].ended {
		a.bytes -= a.begun[0].size
		a.begun, a.first = a.begun[1:], a.first+1
	}
	select {
	case a.room <- struct{}{}:
	default:
	}
}
