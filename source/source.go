package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"migrate"
	"migrate/clock"
	"migrate/criu"
	"migrate/internal/control"
	"migrate/journal"
	"migrate/predump"
	"migrate/source/pages"
	"migrate/supervisor"
	"migrate/transport"
	"migrate/transport/pki"
	"migrate/workload"
	"migrate/workload/cgroup"
	"migrate/workload/oci"
)

// Config is what a host needs to send workloads away.
type Config struct {
	Identity    pki.Identity  // required
	StateDir    string        // required; the journal is below it
	RunDir      string        // required; sockets and small images, best on a tmpfs
	CRIU        string        // path; "" finds one, see criu.Find
	ReplyTo     string        // address of this host's agent, for a target in doubt; "" if none runs
	IdleTimeout time.Duration // silence after which the peer counts as gone; 0 means 6 s
	Logger      *slog.Logger  // nil discards
}

// Mover moves workloads away from this host. It may be used concurrently for
// different workloads; a second move of the same one is refused.
type Mover struct {
	cfg     Config
	journal *journal.Journal
	log     *slog.Logger
}

// New prepares the directories of cfg.
func New(cfg Config) (*Mover, error) {
	for _, d := range []string{cfg.StateDir, cfg.RunDir, filepath.Join(cfg.RunDir, controlDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	j, err := journal.Open(filepath.Join(cfg.StateDir, "journal"))
	if err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Mover{cfg: cfg, journal: j, log: log}, nil
}

// Request says what to move where.
type Request struct {
	ID      migrate.ID // "" makes one
	Ref     workload.Ref
	Target  string // HOST or HOST:PORT
	Options migrate.Options
	Drain   migrate.ID          // that the move is part of; "" is none
	Emit    func(migrate.Event) // may be nil; called from several goroutines, one at a time
}

// Check runs preflight only: nothing is reserved, journaled or frozen. Findings
// that forbid the move are in the answer, not in the error.
func (m *Mover) Check(ctx context.Context, r Request) (migrate.Check, error) {
	v, cancel, err := m.begin(ctx, r)
	if err != nil {
		return migrate.Check{}, err
	}
	defer cancel(nil)
	defer v.close()
	if err := v.connect(v.ctx); err != nil {
		return migrate.Check{}, err
	}
	return v.compare(v.linked, true)
}

// Move moves one workload and always returns a report, which says who owns the
// workload now. Cancelling ctx before the commit point rolls back; after it,
// the move runs to its end.
func (m *Mover) Move(ctx context.Context, r Request) *migrate.Report {
	v, cancel, err := m.begin(ctx, r)
	if err != nil {
		return refused(r, err)
	}
	defer cancel(nil)
	defer v.close()
	return v.conclude(v.run(v.ctx))
}

// refused reports a move that did not begin.
func refused(r Request, err error) *migrate.Report {
	f := Failure(err)
	return &migrate.Report{
		Type: "result", ID: r.ID, Workload: r.Ref.String(), TargetHost: r.Target, Started: time.Now(),
		Status: migrate.StatusFailed, Owner: migrate.OwnerSource, Error: &f,
		Rounds: []migrate.Round{}, Phases: []migrate.PhaseTiming{},
		Warnings: []migrate.Finding{}, Blockers: []migrate.Finding{},
	}
}

// A move is one migration under way. One goroutine owns it; the inbox, the
// sender's workers and the page server only hand things to it.
type move struct {
	*Mover
	ctx    context.Context
	cancel context.CancelCauseFunc
	id     migrate.ID
	ref    workload.Ref
	drain  migrate.ID
	target string
	opts   migrate.Options
	log    *slog.Logger
	watch  *clock.Stopwatch
	events *events
	report *migrate.Report

	tool        criu.Tool
	session     *transport.Session
	inbox       *inbox
	linked      context.Context // ends with the move, or with its session
	current     atomic.Pointer[transport.Session]
	wireBefore  atomic.Uint64 // bytes sent over sessions that broke
	control     *control.Server
	entry       *journal.Entry
	root        int                // host PID of the tree's root
	super       *supervisor.Client // nil for a process nobody supervises
	facts       migrate.Workload
	container   *oci.Container // nil for a workload that is none
	net         *netns         // nil if no network namespace moves
	trees       []*tree        // its files, as far as not every host has them
	peer        migrate.Host
	group       *cgroup.Group
	placement   *cgroup.Placement // nil when the tree had the group to itself
	table       *predump.Table
	path        *pages.Path
	sending     *pages.Round
	tracker     predump.Tracker // nil without pre-copy
	prepared    transport.Prepared
	listing     bool   // CRIU can list pages without sending them
	standing    locks  // file locks that the tree holds for good
	parent      string // of the dump: the last pre-dump's images, below images
	diff        clock.Difference
	images      string
	compared    time.Time // when diff was measured
	frozenAt    migrate.ClockReading
	frozenSince time.Time // the same by this process's clock; zero until the freeze

	gate      sync.Mutex // held while the commit point is passed
	committed bool       // the commit is journaled
	finishing bool       // the target runs it; this copy is to be killed
	inDoubt   bool

	settings *liveSettings   // what of opts can change meanwhile
	hurry    context.Context // ends when the time for pre-copy is up and the move goes on
	suspend  context.CancelCauseFunc
	slower   slower
}

func (m *Mover) begin(ctx context.Context, r Request) (*move, context.CancelCauseFunc, error) {
	r.Options = r.Options.WithDefaults()
	if err := r.Options.Validate(); err != nil {
		return nil, nil, err
	}
	if r.ID == "" {
		r.ID = migrate.NewID()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	v := &move{
		Mover: m, ctx: ctx, id: r.ID, ref: r.Ref, drain: r.Drain, target: r.Target, opts: r.Options,
		cancel: cancel,
		log:    m.log.With("migration", r.ID, "side", "source"),
		watch:  clock.NewStopwatch(),
		report: &migrate.Report{
			Type: "result", ID: r.ID, Workload: r.Ref.String(), TargetHost: r.Target,
			Started: time.Now(), Owner: migrate.OwnerSource, Status: migrate.StatusActive,
			Rounds: []migrate.Round{}, Warnings: []migrate.Finding{}, Blockers: []migrate.Finding{},
		},
	}
	v.settings = newLiveSettings(r.Options)
	v.hurry, v.suspend = context.WithCancelCause(context.WithoutCancel(ctx))
	timer := time.AfterFunc(r.Options.Timeout, v.timeUp)
	context.AfterFunc(ctx, func() { timer.Stop() })
	v.events = newEvents(r.ID, r.Emit)
	return v, v.cancel, nil
}

// run takes the phases in their order.
func (v *move) run(ctx context.Context) error {
	if err := v.connect(ctx); err != nil {
		return cmpCause(ctx, err)
	}
	for _, step := range []func(context.Context) error{v.preflight, v.prepare, v.preCopy, v.stopAndCopy, v.finish} {
		if err := step(v.linked); err != nil { // a step may have dialled anew
			v.awaitReason(err)
			return cmpCause(v.linked, err)
		}
	}
	return nil
}

// cmpCause prefers the reason of a cancelled context to what it made fail.
func cmpCause(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w (%w)", cause, err)
}

// enter begins a phase for the stopwatch, the watchers and the log.
func (v *move) enter(p migrate.Phase) {
	v.watch.Phase(p.String())
	v.events.phase(p)
	v.log.Info("phase", "phase", p)
}

func (v *move) close() {
	if v.control != nil {
		v.control.Close()
	}
	if v.tracker != nil {
		if err := v.tracker.Close(); err != nil {
			v.log.Warn("ending the tracker", "cause", err)
		}
	}
	if v.path != nil {
		v.path.Close()
	}
	if v.session != nil {
		v.session.Close(transport.CodeNone, "")
	}
	if v.super != nil {
		v.super.Close()
	}
	v.net.close()
	if v.images != "" {
		v.remove(v.images)
	}
	if v.entry != nil {
		v.entry.Close()
	}
	v.events.close()
}
