package target

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"migrate"
	"migrate/transport"
)

// rounds is how far the rounds have come. It outlives the session that brings
// them. Make it with newRounds.
type rounds struct {
	mu      sync.Mutex
	round   uint32                   // that is being received, from 1
	order   *transport.Sequencer     // of its batches
	ended   []transport.StreamDigest // its streams that are over and held anything
	final   bool                     // the final round is complete
	changed chan struct{}            // closed, and replaced, with every change
}

func newRounds() *rounds {
	return &rounds{round: 1, order: &transport.Sequencer{}, changed: make(chan struct{})}
}

// begin goes to round n. The caller holds mu.
func (r *rounds) begin(n uint32) {
	r.round, r.order, r.ended = n, &transport.Sequencer{}, nil
	r.change()
}

func (r *rounds) change() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// enter waits until a round is the one being received, and returns the order of
// its batches. A source may be one round ahead of its own word.
func (r *rounds) enter(ctx context.Context, round uint32) (*transport.Sequencer, error) {
	for {
		r.mu.Lock()
		current, order, changed := r.round, r.order, r.changed
		r.mu.Unlock()
		switch round {
		case current:
			return order, nil
		case current + 1:
		default:
			return nil, fmt.Errorf("%w: pages of round %d in round %d", transport.ErrProtocol, round, current)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// leave notes the end of a stream. One without batches belongs to no round, and
// has nothing to compare.
func (r *rounds) leave(round uint32, d transport.StreamDigest) error {
	if d.Batches == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if round != r.round {
		return fmt.Errorf("%w: a stream of round %d ends in round %d", transport.ErrProtocol, round, r.round)
	}
	r.ended = append(r.ended, d)
	r.order.Leave()
	r.change()
	return nil
}

// end waits for the streams of the round, compares them with what the source
// says that it sent, and goes to the next round.
func (r *rounds) end(ctx context.Context, m transport.RoundEnd) error {
	want, err := r.expect(m)
	if err != nil {
		return err
	}
	for {
		r.mu.Lock()
		got, changed := slices.Clone(r.ended), r.changed
		r.mu.Unlock()
		if len(got) >= len(want) {
			return r.finish(m, got, want)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// expect checks what the source says of a round and returns the streams that
// held anything.
func (r *rounds) expect(m transport.RoundEnd) ([]transport.StreamDigest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Round != int(r.round) {
		return nil, fmt.Errorf("%w: the end of round %d in round %d", transport.ErrProtocol, m.Round, r.round)
	}
	if len(m.Streams) > migrate.MaxStreams {
		return nil, fmt.Errorf("%w: round %d came on %d streams, more than %d", transport.ErrProtocol, m.Round, len(m.Streams), migrate.MaxStreams)
	}
	want := slices.DeleteFunc(slices.Clone(m.Streams), func(d transport.StreamDigest) bool { return d.Batches == 0 })
	r.order.Expect(len(want))
	return want, nil
}

func (r *rounds) finish(m transport.RoundEnd, got, want []transport.StreamDigest) error {
	for _, list := range [][]transport.StreamDigest{got, want} {
		slices.SortFunc(list, func(a, b transport.StreamDigest) int { return strings.Compare(a.XXH3, b.XXH3) })
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("round %d arrived as %+v and was sent as %+v", m.Round, got, want)
	}
	var batches uint64
	for _, d := range want {
		batches += d.Batches
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if done := r.order.Done(); done != batches {
		return fmt.Errorf("round %d: %d batches of %d are stored", m.Round, done, batches)
	}
	r.final = r.final || m.Final
	r.begin(r.round + 1)
	return nil
}

// complete reports whether the final round is stored.
func (r *rounds) complete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.final
}

// restart forgets what is on its way, and returns what is stored. No stream may
// be read any more.
func (r *rounds) restart() transport.Resumed {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.final = false // a source that comes back lists its pages anew
	stored := transport.Resumed{Round: int(r.round) - 1, Seq: r.order.Done()}
	r.begin(r.round)
	return stored
}
