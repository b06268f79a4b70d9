package main

import (
	"context"
	"fmt"

	"migrate"
	"migrate/internal/audit"
	"migrate/internal/cordon"
	"migrate/source"
	"migrate/target"
	"migrate/transport"
	"migrate/workload"
)

var _ target.Operator = (*sourceSide)(nil)

// Workloads lists what runs on this host.
func (s *sourceSide) Workloads(ctx context.Context, blockers bool) ([]migrate.Listed, []string) {
	return s.app.workloads(ctx, blockers)
}

// Operate does as an operator on another host says.
func (s *sourceSide) Operate(ctx context.Context, peer string, m transport.Message) (transport.Message, error) {
	switch m := m.(type) {
	case transport.Cordon:
		c, err := cordon.Set(s.app.stateDir, cordon.Wish{Off: m.Off, By: peer, Reason: m.Reason, Drain: m.Drain, TTL: m.TTL})
		s.told(peer, "cordon", err, "off", m.Off, "drain", m.Drain, "ttl", m.TTL)
		return transport.Cordoned{Cordon: c, Failure: failed(err)}, nil
	case transport.Change:
		err := s.change(m.ID, m.Bandwidth)
		s.told(peer, "change", err, "migration", m.ID, "bandwidth", m.Bandwidth)
		return transport.Changed{Failure: failed(err)}, nil
	case transport.Stop:
		ref, err := workload.Parse(m.Ref)
		if err == nil {
			err = s.app.end(ctx, ref, m.Timeout)
		}
		s.told(peer, "stop", err, "workload", m.Ref)
		return transport.Stopped{Failure: failed(err)}, nil
	}
	return nil, fmt.Errorf("unexpected %T", m)
}

// change caps a migration under way, and by the host's own limit.
func (s *sourceSide) change(id migrate.ID, bandwidth int64) error {
	s.mu.Lock()
	if _, ours := s.driving[id]; ours {
		s.driving[id] = bandwidth
	}
	s.mu.Unlock()
	capped := s.live.capped(bandwidth)
	_, err := source.Change(s.app.runDir, id, source.Settings{Bandwidth: &capped})
	return err
}

// requested keeps what a peer asks for on record.
func (s *sourceSide) requested(r target.Request) {
	if c, err := cordon.Load(s.app.stateDir); r.What == "cordon" && err == nil && c != nil && c.Drain == r.ID && r.ID != "" {
		return // its drain says that it lives
	}
	e := audit.Entry{Who: r.Peer, What: r.What, Workload: r.Workload, ID: r.ID, To: r.To, Granted: r.Refused == nil}
	if r.Refused != nil {
		e.Why = r.Refused.Error()
	}
	s.metrics.Request(r.What, e.Granted)
	if err := s.audit.Add(e); err != nil {
		s.log.Error("audit", "cause", err)
	}
}

// told logs what an operator asked for and what came of it.
func (s *sourceSide) told(peer, what string, err error, args ...any) {
	args = append(args, "peer", peer)
	if err != nil {
		s.log.Warn(what, append(args, "cause", err)...)
		return
	}
	s.log.Info(what, args...)
}

// failed puts an error into its three lines; nil is none.
func failed(err error) *migrate.Failure {
	if err == nil {
		return nil
	}
	f := failureOf(err)
	return &f
}
