package source

import (
	"context"
	"fmt"
	"time"

	"migrate"
	"migrate/predump"
	"migrate/transport"
	"migrate/workload/proc"
)

// preCopy copies memory while the workload runs, until the policy says that
// another round would not make the last one shorter.
func (v *move) preCopy(ctx context.Context) error {
	if v.report.Tracker == migrate.TrackerNone {
		return nil
	}
	v.enter(migrate.PreCopy)
	if err := v.entry.Step(migrate.PreCopy, nil); err != nil {
		return err
	}
	v.table = predump.NewTable()
	for n := 1; ; n++ {
		r, err := v.round(ctx, n)
		if err != nil {
			return fmt.Errorf("round %d: %w", n, err)
		}
		v.addRound(r)
		if predump.Next(v.report.Rounds, predump.PolicyOptions{}) == predump.Freeze {
			return nil
		}
	}
}

// round makes one pass over the tree's memory and waits until the target has
// stored it.
func (v *move) round(ctx context.Context, n int) (migrate.Round, error) {
	begun, wire := time.Now(), v.session.BytesSent()
	v.events.round(n, v.facts.MemoryBytes)
	out, err := v.session.OpenPages(ctx)
	if err != nil {
		return migrate.Round{}, err
	}
	s := newSender(ctx, out, n, v.codec())
	c := &collector{sender: s}
	passed, err := predump.Pass(ctx, v.tasks, v.table, progressSink{c, v.events})
	if err == nil {
		err = c.flush()
	}
	digest, sendErr := s.finish()
	if err != nil {
		return migrate.Round{}, err
	}
	if sendErr != nil {
		return migrate.Round{}, sendErr
	}
	if err := v.endRound(ctx, n, digest, false); err != nil {
		return migrate.Round{}, err
	}
	r := s.stats.Round
	r.Unchanged, r.Pages = passed.Unchanged, passed.Pages
	return v.timed(r, begun, wire), nil
}

// endRound tells the target what it must have received, and waits for its word.
func (v *move) endRound(ctx context.Context, n int, d transport.StreamDigest, final bool) error {
	err := v.session.Send(ctx, transport.RoundEnd{
		Round: n, Streams: []transport.StreamDigest{d}, Pages: d.Pages, Final: final,
	})
	if err != nil {
		return err
	}
	ack, err := expect[transport.RoundAck](ctx, v.inbox)
	if err == nil && ack.Round != n {
		err = fmt.Errorf("the target acknowledged round %d", ack.Round)
	}
	return err
}

func (v *move) timed(r migrate.Round, begun time.Time, wire uint64) migrate.Round {
	spent := time.Since(begun)
	r.Duration = migrate.Millis(spent)
	r.Transferred = v.session.BytesSent() - wire
	r.Mbps = mbps(r.Transferred, spent)
	if n := len(v.report.Rounds); n > 0 {
		before := time.Duration(v.report.Rounds[n-1].Duration)
		r.DirtyRate = uint64(float64(r.Sent*pageSize) / max(before, time.Millisecond).Seconds())
	}
	return r
}

func (v *move) addRound(r migrate.Round) {
	v.report.Rounds = append(v.report.Rounds, r)
	v.events.changed(r.DirtyRate)
	v.events.send(migrate.Event{Type: "round", Round: &r})
	v.log.Info("round done", "round", r.Round, "final", r.Final, "pages", r.Pages, "sent", r.Sent, "bytes", r.Transferred, "elapsed", time.Duration(r.Duration))
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

// codec is what the operator asked for; by default s2, whose cost over QUIC is
// repaid by the bytes that it saves.
func (v *move) codec() transport.Codec {
	switch v.opts.Compress {
	case "none":
		return transport.CodecNone
	case "zstd":
		return transport.CodecZstd1
	}
	return transport.CodecS2
}

// progressSink counts what passes.
type progressSink struct {
	*collector
	events *events
}

func (p progressSink) Data(ctx context.Context, im predump.Image, address uint64, data []byte) error {
	p.events.done.Add(uint64(len(data)))
	return p.collector.Data(ctx, im, address, data)
}
