package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"migrate"
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
	return &sourceSide{a, mover, j, log}, nil
}

// State answers a target in doubt.
func (s *sourceSide) State(ctx context.Context, id migrate.ID) (transport.State, error) {
	return s.mover.State(ctx, id)
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
	req := source.Request{ID: migrate.NewID(), Ref: ref, Target: d.Target, Options: d.Options}
	if d.CheckOnly {
		return s.check(ctx, req)
	}
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
		Warnings: orEmpty(c.Warnings), Blockers: orEmpty(c.Blockers),
	}
	if len(c.Blockers) > 0 {
		r.Status = migrate.StatusBlocked
	}
	return r, nil
}

// maxReports bounds the answer to a peer; see transport.MaxControl.
const maxReports = 100

// Reports returns the migrations of this host, newest first.
func (s *sourceSide) Reports() []migrate.Report {
	records, err := s.journal.List()
	if err != nil {
		s.log.Warn("journal", "cause", err)
	}
	reports := []migrate.Report{}
	for _, r := range records[:min(len(records), maxReports)] {
		reports = append(reports, reportOf(r, s.app.live(s.journal, r)))
	}
	return reports
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
