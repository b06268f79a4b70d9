package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Sequencer puts the batches of a round, which come on several streams, back in
// order: its streams are read by a goroutine each, and each batch waits until
// it is due. The zero value is ready for a round. Methods may be called from
// any goroutine.
type Sequencer struct {
	mu      sync.Mutex
	round   uint32              // of the first batch
	next    uint64              // Seq that is due or being applied
	held    map[uint64]struct{} // Seqs of the batches that streams have here
	streams int                 // of the round, once Expect was called
	ended   int                 // streams
	err     error               // the round is lost
	turn    chan struct{}       // closed when something changed
}

// Read takes all batches of one stream, each when it is due, and returns what
// the stream held.
func (q *Sequencer) Read(ctx context.Context, r *PageReader, apply func(*Batch) error) (StreamDigest, error) {
	for b := (Batch{}); ; {
		err := r.Next(ctx, &b)
		if errors.Is(err, io.EOF) {
			q.Leave()
			return r.Digest(), nil
		}
		if err == nil {
			err = q.Take(ctx, &b, apply)
		}
		if err != nil {
			return StreamDigest{}, err
		}
	}
}

// Take waits until all batches below b.Seq are applied, and applies b. Batches
// of another round, or with a Seq that was there before, are an error that
// wraps [ErrProtocol], and so is a gap, once it is certain (see
// [Sequencer.Expect]); after any error but the end of a ctx every Take of the
// round returns it.
func (q *Sequencer) Take(ctx context.Context, b *Batch, apply func(*Batch) error) error {
	if err := q.enter(b); err != nil {
		return err
	}
	if err := q.wait(ctx, b.Seq); err != nil {
		return err
	}
	err := apply(b)
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.held, b.Seq)
	if err != nil {
		q.lose(err)
		return err
	}
	q.next++
	q.wake()
	return nil
}

// Leave says that a stream has ended in good order.
func (q *Sequencer) Leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended++
	q.wake()
}

// Expect says that the sender has ended the round, on so many streams. From
// then on a batch for which the streams cannot wait any longer is missing.
func (q *Sequencer) Expect(streams int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.streams = streams
	q.wake()
}

// Done returns how many batches of the round are applied: those with a Seq
// below that.
func (q *Sequencer) Done() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.next
}

// Reset makes q ready for the next round. No stream of the round before may
// still be read.
func (q *Sequencer) Reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.round, q.next, q.held, q.streams, q.ended, q.err = 0, 0, nil, 0, 0, nil
	q.wake()
}

// enter checks a batch and counts it among those that streams have here.
func (q *Sequencer) enter(b *Batch) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return q.err
	}
	if q.next == 0 && len(q.held) == 0 {
		q.round, q.held = b.Round, map[uint64]struct{}{}
	}
	_, twice := q.held[b.Seq]
	switch {
	case b.Round != q.round:
		q.lose(fmt.Errorf("%w: batch %d of round %d in round %d", ErrProtocol, b.Seq, b.Round, q.round))
	case twice || b.Seq < q.next:
		q.lose(fmt.Errorf("%w: batch %d of round %d came twice", ErrProtocol, b.Seq, b.Round))
	default:
		q.held[b.Seq] = struct{}{}
		q.wake() // with one more stream waiting a gap may be certain
	}
	return q.err
}

// wait returns when seq is due.
func (q *Sequencer) wait(ctx context.Context, seq uint64) error {
	for {
		turn, err := q.look(seq)
		if turn == nil {
			return err
		}
		select {
		case <-turn:
		case <-ctx.Done():
			q.forget(seq)
			return context.Cause(ctx)
		}
	}
}

// look returns nil if seq is due or an error has come, or else what to wait for.
func (q *Sequencer) look(seq uint64) (<-chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil && q.stuck() {
		q.lose(fmt.Errorf("%w: batch %d of round %d is missing", ErrProtocol, q.next, q.round))
	}
	if q.err != nil || seq == q.next {
		return nil, q.err
	}
	if q.turn == nil {
		q.turn = make(chan struct{})
	}
	return q.turn, nil
}

// stuck reports whether no stream can bring the batch that is due.
func (q *Sequencer) stuck() bool {
	_, due := q.held[q.next]
	return !due && q.streams > 0 && len(q.held)+q.ended >= q.streams
}

func (q *Sequencer) forget(seq uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.held, seq)
}

func (q *Sequencer) lose(err error) {
	if q.err == nil {
		q.err = err
	}
	q.wake()
}

func (q *Sequencer) wake() {
	if q.turn != nil {
		close(q.turn)
		q.turn = nil
	}
}
