package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"migrate"
	"migrate/internal/inquiry"
	"migrate/journal"
	"migrate/supervisor"
	"migrate/transport"
	"migrate/workload/cgroup"
	"migrate/workload/proc"
)

// Outcome is what recovery made of one record.
type Outcome struct {
	ID       migrate.ID    `json:"id"`
	Side     migrate.Side  `json:"side"`
	Workload string        `json:"workload"`
	Phase    migrate.Phase `json:"phase"` // now
	Owner    migrate.Owner `json:"owner"`
	Text     string        `json:"text"` // what was done, or why nothing could be
}

// Recover puts right what a dead source process left behind, by the recovery
// table. It returns journal.ErrBusy while a live process works on it. In doubt,
// it asks the target once; a caller may repeat it.
func (m *Mover) Recover(ctx context.Context, id migrate.ID) (Outcome, error) {
	entry, err := m.journal.Take(id, migrate.Source)
	if err != nil {
		return Outcome{}, err
	}
	defer entry.Close()
	r := entry.Record()
	action := journal.Recovery(migrate.Source, r.Phase)
	var why error
	if action == journal.AskPeer {
		action, why = m.askOnce(ctx, id, r.Peer, r.PeerName)
	}
	return m.act(ctx, entry, action, why)
}

// Decide is an operator's word in place of a target that will never answer
// again: run thaws the frozen copy here, otherwise it is destroyed. The caller
// has made sure that the operator knows the other copy's fate.
func (m *Mover) Decide(ctx context.Context, id migrate.ID, run bool) (Outcome, error) {
	entry, err := m.journal.Take(id, migrate.Source)
	if err != nil {
		return Outcome{}, err
	}
	defer entry.Close()
	if p := entry.Record().Phase; p != migrate.Commit {
		return Outcome{}, fmt.Errorf("migration %s is not in doubt here (%s)", id, p)
	}
	action := journal.Finish
	if run {
		action = journal.Thaw
	}
	return m.act(ctx, entry, action, nil)
}

func (m *Mover) act(ctx context.Context, entry *journal.Entry, action journal.Action, why error) (Outcome, error) {
	r := entry.Record()
	o := Outcome{ID: r.ID, Side: migrate.Source, Workload: r.Workload, Owner: migrate.OwnerSource}
	var err error
	switch action {
	case journal.Thaw:
		o.Text = "thawed; it runs on here"
		err = m.undo(ctx, entry)
	case journal.Finish:
		o.Owner, o.Text = migrate.OwnerTarget, "it runs on the target; the frozen copy here is removed"
		err = m.complete(ctx, entry)
	case journal.Nothing:
		o.Text = "nothing to do: it is over"
		if r.Phase == migrate.Done {
			o.Owner = migrate.OwnerTarget
		}
	default:
		o.Owner = migrate.OwnerInDoubt
		o.Text = doubtText(r, why)
	}
	o.Phase = entry.Record().Phase
	return o, err
}

func doubtText(r journal.Record, why error) string {
	cause := "it holds no record that decides"
	if why != nil {
		cause = why.Error()
	}
	return fmt.Sprintf("in doubt: the copy here stays frozen until %s tells what became of it (%s)", r.Peer, cause)
}

// undo lets the tree run again and releases everything.
func (m *Mover) undo(ctx context.Context, entry *journal.Entry) error {
	r := entry.Record()
	if err := errors.Join(unthrottle(ctx, r), unlockRecorded(ctx, r), thaw(ctx, r)); err != nil {
		return err
	}
	m.clean(r)
	return entry.Step(migrate.RolledBack, func(r *journal.Record) {
		if r.Status != migrate.StatusCancelled {
			r.Status = migrate.StatusFailed
		}
		if r.Reason == nil {
			r.Reason = &migrate.Failure{What: "the source process ended in phase " + r.Phase.String()}
		}
	})
}

func thaw(ctx context.Context, r journal.Record) error {
	if r.Cgroup == "" {
		return nil
	}
	if err := untraced(ctx, r.RootPID); err != nil {
		return err
	}
	g, err := cgroup.Open(r.Cgroup)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := g.Thaw(ctx); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	if len(r.Placement) == 0 {
		return nil // it had the group to itself before the move
	}
	var p cgroup.Placement
	if err := json.Unmarshal(r.Placement, &p); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return errors.Join(p.Restore(ctx), g.Remove())
}

// untraced waits until CRIU, whose socket is closed, has let the tree go: at
// its own end it would freeze a cgroup again that we thawed before.
func untraced(ctx context.Context, root int) error {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	for {
		if s, err := proc.ReadStatus(root, root); err != nil || s.Tracer == 0 {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("process %d is still held by a tracer: %w", root, ctx.Err())
		}
	}
}

// complete kills the frozen copy, which the target has in its place.
func (m *Mover) complete(ctx context.Context, entry *journal.Entry) error {
	r := entry.Record()
	if r.Phase == migrate.Commit {
		if err := entry.Step(migrate.Finish, nil); err != nil {
			return err
		}
	}
	if s, err := supervisor.Connect(m.cfg.RunDir, r.Name); err == nil {
		err = s.MovedAway(ctx, r.PeerName, r.ID)
		s.Close()
		if err != nil {
			m.log.Warn("tell the supervisor", "cause", err)
		}
	}
	ns, net, err := openRecorded(r)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := release(ns, net); err != nil {
		return err
	}
	if g, err := cgroup.Open(r.Cgroup); err == nil {
		if err := removeCopy(ctx, g); err != nil {
			return err
		}
	}
	if err := errors.Join(removeContainer(ctx, r), net.removeName()); err != nil {
		return err
	}
	if err := unthrottle(ctx, r); err != nil { // its group may be left
		m.log.Warn("processor limit", "cause", err)
	}
	m.clean(r)
	return entry.Step(migrate.Done, func(r *journal.Record) { r.Status, r.Reason = migrate.StatusCompleted, nil })
}

func (m *Mover) clean(r journal.Record) {
	m.remove(filepath.Join(m.cfg.RunDir, "images", string(r.ID)))
	m.remove(controlPath(m.cfg.RunDir, r.ID))
}

// remove removes what nobody needs any more, and does no harm if it stays.
func (m *Mover) remove(path string) {
	if err := os.RemoveAll(path); err != nil {
		m.log.Warn("clean up", "cause", err)
	}
}

// State answers a target that asks what became of a migration. What a dead
// process left is put right first, so that the answer is final.
func (m *Mover) State(ctx context.Context, id migrate.ID) (transport.State, error) {
	peer, err := m.journal.State(id, migrate.Source)
	if err != nil {
		return transport.State{}, err
	}
	if peer.Answer == journal.Present && !peer.Live && journal.Recovery(migrate.Source, peer.Phase) == journal.Thaw {
		if _, err := m.Recover(ctx, id); err != nil && !errors.Is(err, journal.ErrBusy) {
			return transport.State{}, err
		}
		if peer, err = m.journal.State(id, migrate.Source); err != nil {
			return transport.State{}, err
		}
	}
	return inquiry.State(id, migrate.Source, peer), nil
}
