package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"migrate"
	"migrate/internal/audit"
	"migrate/internal/hostinfo"
	"migrate/internal/metrics"
	"migrate/journal"
	"migrate/source"
	"migrate/supervisor"
	"migrate/target"
	"migrate/transport"
	"migrate/transport/pki"
	"migrate/workload"
)

// sourceSide is what the agent's peers may ask about this host as a source.
type sourceSide struct {
	app     *app
	mover   *source.Mover
	journal *journal.Journal
	log     *slog.Logger
	audit   *audit.Log
	metrics *metrics.Set
	over    map[string]bool // migrations and drains whose end was counted; nil before the first look

	agent *target.Agent // once it is made
	live  *liveAgent

	mu      sync.Mutex
	driving map[migrate.ID]int64 // bandwidth as asked for, of moves whose record may be yet to come
}

var _ target.Source = (*sourceSide)(nil)

func (a *app) sourceSide(id pki.Identity, opts agentOptions, log *slog.Logger) (*sourceSide, error) {
	mover, err := source.New(source.Config{
		Identity: id, StateDir: a.stateDir, RunDir: a.runDir, CRIU: opts.criu,
		ReplyTo: opts.advertise, IdleTimeout: opts.idle, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	j, err := a.journal()
	if err != nil {
		return nil, err
	}
	s := &sourceSide{
		app: a, mover: mover, journal: j, log: log, driving: map[migrate.ID]int64{}, audit: audit.Open(a.stateDir),
	}
	s.metrics = metrics.New(hostinfo.Version(), s.now)
	return s, nil
}

// State answers a target in doubt.
func (s *sourceSide) State(ctx context.Context, id migrate.ID) (transport.State, error) {
	s.mu.Lock()
	_, busy := s.driving[id]
	s.mu.Unlock()
	st, err := s.mover.State(ctx, id)
	st.Busy = st.Busy || busy && !st.Known
	return st, err
}

// drive notes that a migration is on its way, until the function it returns is
// called: whoever asks in time must not hear that it never began.
func (s *sourceSide) drive(id migrate.ID, bandwidth int64) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.driving[id] = bandwidth
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.driving, id)
	}
}

// flushLimit is how long the last events of a driven move may take to their
// operator before its result follows without them.
const flushLimit = 5 * time.Second

// Drive moves a workload of this host away. An operator who does not read
// holds up nothing.
func (s *sourceSide) Drive(ctx context.Context, d transport.Drive, emit func(migrate.Event)) (*migrate.Report, error) {
	ref, err := workload.Parse(d.Source)
	if err != nil {
		return nil, err
	}
	req := source.Request{ID: cmp.Or(d.ID, migrate.NewID()), Drain: d.Drain, Ref: ref, Target: d.Target, Options: d.Options}
	if d.CheckOnly {
		return s.check(ctx, req)
	}
	defer s.drive(req.ID, d.Options.Bandwidth)()
	req.Options.Bandwidth = s.live.capped(d.Options.Bandwidth)
	// The end of ctx is somebody's wish, and is to be called so.
	wished, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(source.ErrCancelled) })()
	events := newQueue(emit)
	req.Emit = events.add
	report := s.mover.Move(wished, req)
	events.close(flushLimit)
	return report, nil
}

// check puts the answer of a preflight into a report.
func (s *sourceSide) check(ctx context.Context, req source.Request) (*migrate.Report, error) {
	c, err := s.mover.Check(ctx, req)
	if err != nil {
		return nil, err
	}
	r := &migrate.Report{
		Type: "result", ID: req.ID, Workload: req.Ref.String(), Started: time.Now(),
		SourceHost: c.Source.Name, TargetHost: c.Target.Name, Status: migrate.StatusActive, Owner: migrate.OwnerSource,
		Rounds: []migrate.Round{}, Phases: []migrate.PhaseTiming{},
		Files: c.Files, Warnings: orEmpty(c.Warnings), Blockers: orEmpty(c.Blockers),
	}
	if len(c.Blockers) > 0 {
		r.Status = migrate.StatusBlocked
	}
	return r, nil
}

// maxReports bounds the answer to a peer; see transport.MaxControl.
const maxReports = 100

// Status returns the migrations of this host, newest first.
func (s *sourceSide) Status() transport.StatusReply {
	records, err := s.journal.List()
	if err != nil {
		s.log.Warn("journal", "cause", err)
	}
	reply := transport.StatusReply{Reports: []migrate.Report{}, Progress: map[migrate.ID]migrate.Progress{}}
	for _, r := range records[:min(len(records), maxReports)] {
		reply.Reports = append(reply.Reports, reportOf(r, s.app.live(s.journal, r)))
		if r.Side != migrate.Source || r.Phase.Over() {
			continue
		}
		if g, err := source.Ask(s.app.runDir, r.ID, "status"); err == nil {
			reply.Progress[r.ID] = g
		}
	}
	return reply
}

const (
	// recoverEvery is the pace of looking for what a dead process left.
	recoverEvery = 3 * time.Second
	// keepRecords is how long a finished migration stays in the journal. A peer
	// in doubt for longer than that needs an operator.
	keepRecords = 30 * 24 * time.Hour
)

// recover puts right, until ctx ends, what dead processes left on the source
// side: an earlier agent, or a "migrate move" that was killed.
func (s *sourceSide) recover(ctx context.Context) {
	if n, err := s.journal.Prune(keepRecords); err != nil || n > 0 {
		s.log.Info("journal pruned", "records", n, "cause", err)
	}
	if d, err := s.app.drains(); err != nil {
		s.log.Warn("records of drains", "cause", err)
	} else if err := d.Prune(keepRecords); err != nil {
		s.log.Warn("records of drains", "cause", err)
	}
	said := map[migrate.ID]string{}
	for {
		s.recoverAll(ctx, said)
		if err := supervisor.Sweep(s.app.stateDir, s.app.runDir); err != nil && said["sweep"] != err.Error() {
			said["sweep"] = err.Error()
			s.log.Error("sweep", "cause", err)
		}
		select {
		case <-time.After(recoverEvery):
		case <-ctx.Done():
			return
		}
	}
}

// recoverAll tries every record once, beside each other: one that asks a
// silent peer must not hold up one that only needs a thaw. said is what was
// logged, so that a lasting doubt is logged once.
func (s *sourceSide) recoverAll(ctx context.Context, said map[migrate.ID]string) {
	records, err := s.journal.List()
	if err != nil && said[""] != err.Error() {
		said[""] = err.Error()
		s.log.Error("journal", "cause", err)
	}
	s.follow(records)
	var mu sync.Mutex
	var work sync.WaitGroup
	for _, r := range records {
		if r.Side != migrate.Source || r.Phase.Over() {
			continue
		}
		work.Go(func() {
			text, level := s.recoverOne(ctx, r.ID)
			mu.Lock()
			defer mu.Unlock()
			if text != "" && said[r.ID] != text {
				said[r.ID] = text
				s.log.Log(ctx, level, "recover", "migration", r.ID, "workload", r.Workload, "outcome", text)
			}
		})
	}
	work.Wait()
}

func (s *sourceSide) recoverOne(ctx context.Context, id migrate.ID) (string, slog.Level) {
	o, err := s.mover.Recover(ctx, id)
	switch {
	case errors.Is(err, journal.ErrBusy): // it lives
		return "", 0
	case err != nil:
		return err.Error(), slog.LevelError
	case o.Owner == migrate.OwnerInDoubt:
		return o.Text, slog.LevelWarn
	}
	return o.Text, slog.LevelInfo
}
