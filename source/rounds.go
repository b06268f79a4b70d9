package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate"
	"migrate/internal/priority"
	"migrate/predump"
	"migrate/source/pages"
	"migrate/transport"
	"migrate/workload/proc"
)

// preCopy copies memory while the workload runs, until the policy says that
// another round would not make the last one shorter.
func (v *move) preCopy(ctx context.Context) error {
	if err := v.startTracker(); err != nil {
		return err
	}
	if v.tracker == nil {
		return v.preCopyFiles(ctx)
	}
	v.enter(migrate.PreCopy)
	if err := v.entry.Step(migrate.PreCopy, nil); err != nil {
		return err
	}
	for n := 1; ; n++ {
		r, err := v.roundWithFiles(v.linked, n)
		if transport.Broken(err) && context.Cause(v.ctx) == nil {
			if n, err = v.resume(n, err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", n, err)
		}
		if done, err := v.decideNext(v.linked, r); done || err != nil {
			return err
		}
	}
}

// resume takes up a round whose link broke, and returns the number of the last
// round that the target has whole.
func (v *move) resume(n int, why error) (int, error) {
	got, err := v.redial(v.ctx, why)
	if err != nil {
		return 0, err
	}
	if got.Round != n && got.Round != n-1 {
		return 0, fmt.Errorf("the target says that it has %d rounds, of %d begun", got.Round, n)
	}
	if err := v.settleTrees(got.Trees); err != nil {
		return 0, err
	}
	v.path.Forget()
	if got.Round < n && v.sending != nil {
		v.sending.Forget(v.table, got.Seq)
	}
	return got.Round, nil
}

// round makes one pass over the tree's memory and waits until the target has
// stored it.
func (v *move) round(ctx context.Context, n int) (migrate.Round, error) {
	begun, wire := time.Now(), v.wire()
	v.events.round(n, v.expectedBytes())
	v.sending = nil
	out, err := v.openStreams(ctx)
	if err != nil {
		return migrate.Round{}, err
	}
	v.sending = v.path.Begin(ctx, out, n)
	reading, stop := v.untilHurry(ctx)
	passed, err := v.read(reading)
	stop()
	if errors.Is(err, errHurry) && ctx.Err() == nil {
		err = nil // what is left goes with the last round
	}
	digests, sendErr := v.sending.Finish()
	if err := errors.Join(sendErr, err); err != nil {
		return migrate.Round{}, err
	}
	if err := v.endRound(ctx, n, digests, false); err != nil {
		return migrate.Round{}, err
	}
	r := v.sending.Stats()
	r.Unchanged, r.Pages, r.Throttle = passed.Unchanged, passed.Pages, v.slower.percent
	return v.timed(r, begun, wire), nil
}

// read has the tracker read what changed. CRIU, which one of them starts, holds
// the workload meanwhile and must not be slow.
func (v *move) read(ctx context.Context) (s predump.Stats, err error) {
	run := priority.Low
	if v.tracker.Name() == migrate.TrackerSoftDirty {
		run = func(f func() error) error { return f() }
	}
	err = run(func() (err error) {
		s, err = v.tracker.Round(ctx, v.tasks, progressSink{v.sending, v.events})
		return err
	})
	return s, err
}

// expectedBytes is about what the next round has to look at.
func (v *move) expectedBytes() uint64 {
	if n := len(v.report.Rounds); n > 0 && v.tracker.Name() != migrate.TrackerHash {
		return v.report.Rounds[n-1].Dirty() * pageSize
	}
	return v.facts.MemoryBytes
}

// openStreams opens as many page streams as are asked for.
func (v *move) openStreams(ctx context.Context) (*transport.PageStreams, error) {
	return v.session.OpenPageStreams(ctx, v.opts.Streams)
}

// endRound tells the target what it must have received, and waits for its word.
func (v *move) endRound(ctx context.Context, n int, d []transport.StreamDigest, final bool) error {
	if err := v.session.Send(ctx, roundEnd(n, d, final)); err != nil {
		return err
	}
	ack, err := expect[transport.RoundAck](ctx, v.inbox)
	if err == nil && ack.Round != n {
		err = fmt.Errorf("the target acknowledged round %d", ack.Round)
	}
	return err
}

func roundEnd(n int, digests []transport.StreamDigest, final bool) transport.RoundEnd {
	m := transport.RoundEnd{Round: n, Streams: digests, Final: final}
	for _, d := range digests {
		m.Pages += d.Pages
	}
	return m
}

func (v *move) timed(r migrate.Round, begun time.Time, wire uint64) migrate.Round {
	spent := time.Since(begun)
	r.Duration = migrate.Millis(spent)
	r.Transferred = v.wire() - wire
	r.Mbps = mbps(r.Transferred, spent)
	if n := len(v.report.Rounds); n > 0 {
		before := time.Duration(v.report.Rounds[n-1].Duration)
		r.DirtyRate = uint64(float64(r.Dirty()*pageSize) / max(before, time.Millisecond).Seconds())
	}
	return r
}

func (v *move) addRound(r migrate.Round) {
	v.report.Rounds = append(v.report.Rounds, r)
	v.events.changed(r)
	v.events.send(migrate.Event{Type: "round", Round: &r})
	v.log.Info("round done", "round", r.Round, "final", r.Final, "pages", r.Pages, "sent", r.Sent, "delta", r.Delta, "duplicate", r.Duplicate,
		"bytes", r.Transferred, "elapsed", time.Duration(r.Duration), "expected", time.Duration(r.Expected))
}

// tasks lists the tree as it is now; memory of one that has gone is not needed.
func (v *move) tasks() []predump.Task {
	var out []predump.Task
	tree, err := proc.Descendants(v.root)
	if err != nil {
		v.log.Info("tree", "cause", err) // it has ended, which the dump finds
	}
	for _, p := range tree {
		if s, err := proc.ReadStatus(p.PID, p.PID); err == nil {
			out = append(out, predump.Task{PID: p.PID, VPID: s.PIDs[len(s.PIDs)-1]})
		}
	}
	return out
}

// codecs are what the operator asked for: the weakest and the strongest.
func (v *move) codecs() (lowest, highest transport.Codec) {
	switch v.opts.Compress {
	case "none":
		return transport.CodecNone, transport.CodecNone
	case "s2":
		return transport.CodecS2, transport.CodecS2
	case "zstd":
		return transport.CodecZstd1, transport.CodecZstd3
	}
	return transport.CodecNone, transport.CodecZstd3
}

// progressSink counts what passes.
type progressSink struct {
	*pages.Round
	events *events
}

func (p progressSink) Data(ctx context.Context, im predump.Image, address uint64, data []byte) error {
	p.events.done.Add(uint64(len(data)))
	return p.Round.Data(ctx, im, address, data)
}
