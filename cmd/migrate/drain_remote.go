package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate"
	"migrate/drain"
	"migrate/source"
	"migrate/transport"
	"migrate/transport/pki"
)

// remoteHost is a host as a drain sees it, by its agent. It opens a session for
// each question: what it asks is rare, and agents may come and go.
type remoteHost struct {
	address string
	config  transport.Config
	commit  time.Duration // patience of asking how a driven move has ended
}

var _ drain.Source = (*remoteHost)(nil)

func (a *app) remoteHost(id pki.Identity, address string, o migrate.Options) *remoteHost {
	return &remoteHost{
		address: source.Address(address), commit: o.CommitTimeout,
		config: transport.Config{Identity: id, IdleTimeout: idleTimeout(), Logger: a.logger()},
	}
}

// questionTimeout bounds one question to an agent.
const questionTimeout = 30 * time.Second

// ask asks the agent of a host.
func ask[T transport.Message](ctx context.Context, h *remoteHost, m transport.Message) (T, error) {
	var none T
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	s, err := transport.Dial(ctx, h.address, source.PeerName(h.address), h.config)
	if err != nil {
		return none, fmt.Errorf("host %s: %w", h.address, err)
	}
	defer s.Close(transport.CodeNone, "")
	return transport.Call[T](ctx, s, m)
}

// State describes the host.
func (h *remoteHost) State(ctx context.Context, blockers bool) (migrate.HostState, error) {
	d, err := ask[transport.Description](ctx, h, transport.Describe{Blockers: blockers})
	return d.State, err
}

// Check runs the preflight of a move.
func (h *remoteHost) Check(ctx context.Context, o drain.Order) ([]migrate.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	r, err := h.drive(ctx, o, true, func(migrate.Event) {})
	if err != nil {
		return nil, err
	}
	return r.Blockers, nil
}

// Move has the agent move a workload.
func (h *remoteHost) Move(ctx context.Context, o drain.Order, emit func(migrate.Event)) (*migrate.Report, error) {
	r, err := h.drive(ctx, o, false, emit)
	if err != nil && !errors.As(err, new(*unknownError)) {
		err = &drain.NotBegun{Err: err}
	}
	return r, err
}

func (h *remoteHost) drive(ctx context.Context, o drain.Order, checkOnly bool, emit func(migrate.Event)) (*migrate.Report, error) {
	d := driver{address: h.address, config: h.config, patience: h.commit, emit: emit}
	return d.drive(ctx, transport.Drive{
		Source: o.Ref, Target: o.Target, Options: o.Options, CheckOnly: checkOnly, ID: o.ID, Drain: o.Drain,
	})
}

// Trace returns what the host has on record as a source.
func (h *remoteHost) Trace(ctx context.Context, id migrate.ID) (drain.Trace, error) {
	return h.trace(ctx, id, migrate.Source)
}

func (h *remoteHost) trace(ctx context.Context, id migrate.ID, side migrate.Side) (drain.Trace, error) {
	s, err := ask[transport.State](ctx, h, transport.Ask{ID: id, Side: side})
	return traceOf(s), err
}

func traceOf(s transport.State) drain.Trace {
	return drain.Trace{Known: s.Known, Busy: s.Busy, Damaged: s.Damaged, Phase: s.Phase}
}

// Cap changes the bandwidth of a migration.
func (h *remoteHost) Cap(ctx context.Context, id migrate.ID, bandwidth int64) error {
	r, err := ask[transport.Changed](ctx, h, transport.Change{ID: id, Bandwidth: bandwidth})
	return orRefused(r.Failure, err)
}

// Stop ends a workload.
func (h *remoteHost) Stop(ctx context.Context, ref string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout+questionTimeout)
	defer cancel()
	s, err := transport.Dial(ctx, h.address, source.PeerName(h.address), h.config)
	if err != nil {
		return err
	}
	defer s.Close(transport.CodeNone, "")
	r, err := transport.Call[transport.Stopped](ctx, s, transport.Stop{Ref: ref, Timeout: timeout})
	return orRefused(r.Failure, err)
}

// Cordon has the host refuse workloads, and claims it.
func (h *remoteHost) Cordon(ctx context.Context, id migrate.ID, ttl time.Duration, reason string) error {
	return h.wish(ctx, transport.Cordon{Drain: id, TTL: ttl, Reason: reason})
}

// Uncordon has the host receive workloads again.
func (h *remoteHost) Uncordon(ctx context.Context, id migrate.ID) error {
	return h.wish(ctx, transport.Cordon{Off: true, Drain: id})
}

func (h *remoteHost) wish(ctx context.Context, m transport.Cordon) error {
	r, err := ask[transport.Cordoned](ctx, h, m)
	if err == nil && r.Failure != nil && r.Cordon.Claimed(m.Drain, time.Now()) {
		return &claimedError{refusedError{*r.Failure}}
	}
	return orRefused(r.Failure, err)
}

// claimedError is the claim of another drain.
type claimedError struct{ refusedError }

// Claimed tells it from other errors.
func (*claimedError) Claimed() bool { return true }

func orRefused(f *migrate.Failure, err error) error {
	if err == nil && f != nil {
		return &refusedError{*f}
	}
	return err
}

// remoteTarget is a host as a target.
type remoteTarget struct{ *remoteHost }

var _ drain.Target = remoteTarget{}

// State describes the host; what is promised to the drain counts as free.
func (t remoteTarget) State(ctx context.Context, id migrate.ID) (migrate.HostState, error) {
	d, err := ask[transport.Description](ctx, t.remoteHost, transport.Describe{Drain: id})
	return d.State, err
}

// Trace returns what the host has on record as a target.
func (t remoteTarget) Trace(ctx context.Context, id migrate.ID) (drain.Trace, error) {
	return t.trace(ctx, id, migrate.Target)
}

// Reserve keeps room for a drain.
func (t remoteTarget) Reserve(ctx context.Context, id migrate.ID, bytes uint64, ttl time.Duration) error {
	r, err := ask[transport.Reserved](ctx, t.remoteHost, transport.Reserve{Drain: id, Bytes: bytes, TTL: ttl})
	return orRefused(r.Failure, err)
}
