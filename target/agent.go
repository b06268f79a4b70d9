package target

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/internal/inquiry"
	"migrate/journal"
	"migrate/transport"
	"migrate/transport/pki"
)

// Config is what an agent needs.
type Config struct {
	Listen        string            // address, such as ":7420"
	Identity      pki.Identity      // required
	Allow         func(string) bool // peers that may send workloads here and ask about them; nil allows none
	AllowOperator func(string) bool // peers that may also drive this host's own workloads away; nil allows none
	StateDir      string            // required
	RunDir        string            // required
	Store         string            // directory for received pages, best in memory; default RunDir/store
	Program       string            // the migrate binary that supervises; "" is this one
	CRIU          string            // path; "" finds one, see criu.Find
	IdleTimeout   time.Duration     // silence after which a peer counts as gone; 0 means 6 s
	Source        Source            // this host's source side
	Operator      Operator          // what operators may do to this host; nil is nothing
	Requested     func(Request)     // told of what peers ask for, before it is done; nil tells nobody
	Logger        *slog.Logger      // nil discards
}

// Source is this host's other side, as far as peers and operators may ask an
// agent about it.
type Source interface {
	// State answers a target in doubt.
	State(ctx context.Context, id migrate.ID) (transport.State, error)
	// Drive moves a workload of this host away, on an operator's wish.
	Drive(ctx context.Context, d transport.Drive, emit func(migrate.Event)) (*migrate.Report, error)
	// Status returns the migrations of this host, newest first.
	Status() transport.StatusReply
}

// Operator is what those who plan and operate may ask of a host, besides moves.
type Operator interface {
	// Workloads lists what runs on the host; blockers wants to know what keeps
	// each from moving. Problems are what could not be listed.
	Workloads(ctx context.Context, blockers bool) (list []migrate.Listed, problems []string)
	// Operate does as the message of an operator says, and returns the answer.
	// It is given Cordon, Change and Stop.
	Operate(ctx context.Context, peer string, m transport.Message) (transport.Message, error)
}

// Agent serves one host. Make it with [New].
type Agent struct {
	cfg     Config
	log     *slog.Logger
	journal *journal.Journal
	tool    criu.Tool
	criuErr error
	costs   *costs

	mu       sync.Mutex
	live     map[migrate.ID]*receiver
	reserved uint64 // bytes promised to migrations under way
	drains   drains
	work     sync.WaitGroup
}

// New prepares directories and the store, and finds CRIU. A host without a
// usable CRIU still serves: it answers every offer with that blocker.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	if cfg.Store == "" {
		cfg.Store = filepath.Join(cfg.RunDir, "store")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []string{cfg.StateDir, cfg.RunDir, cfg.Store} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	j, err := journal.Open(filepath.Join(cfg.StateDir, "journal"))
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, log: cfg.Logger, journal: j, live: map[migrate.ID]*receiver{}, costs: newCosts(), drains: drains{}}
	a.tool, a.criuErr = criu.FindAnew(ctx, cfg.CRIU, cfg.RunDir)
	if a.criuErr != nil {
		a.log.Warn("no usable CRIU: this host can receive nothing", "cause", a.criuErr)
	}
	return a, nil
}

// Serve first puts right what an earlier agent left, then accepts sessions
// until ctx ends. Workloads that arrived run on without the agent; a migration
// that has not voted is rolled back.
func (a *Agent) Serve(ctx context.Context, listening func(address string)) error {
	l, err := transport.Listen(a.cfg.Listen, a.sessions())
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, stop := a.untilStopped(ctx)
	defer stop()
	a.Recover(ctx)
	a.work.Go(func() { a.keepRecovering(ctx) })
	listening(l.Addr().String())
	for {
		s, err := l.Accept(ctx)
		if err != nil {
			a.work.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		a.work.Go(func() { a.serve(ctx, s) })
	}
}

// untilStopped returns a context that ends with ctx, for a reason that peers
// understand.
func (a *Agent) untilStopped(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() { cancel(&stopping{a.cfg.Identity.Name}) })
	return out, func() { forget(); cancel(nil) }
}

// stopping is why what an agent was receiving ends with it.
type stopping struct{ host string }

func (s *stopping) Error() string { return "the agent of " + s.host + " is being stopped" }

func (s *stopping) Failure() migrate.Failure {
	return migrate.Failure{What: s.Error(), Advice: "move again when it runs"}
}

// sessions are the settings of those that come in and of those that go out.
func (a *Agent) sessions() transport.Config {
	return transport.Config{
		Identity: a.cfg.Identity, AllowPeer: a.allows, IdleTimeout: a.cfg.IdleTimeout, Logger: a.log,
	}
}

func (a *Agent) allows(name string) bool {
	return allowed(a.cfg.Allow, name) || allowed(a.cfg.AllowOperator, name)
}

func allowed(f func(string) bool, name string) bool { return f != nil && f(name) }

// serve answers one session: what it is about, its first message tells.
func (a *Agent) serve(ctx context.Context, s *transport.Session) {
	defer a.end(ctx, s)
	log := a.log.With("peer", s.Peer())
	for {
		m, err := s.Receive(ctx)
		if err != nil {
			return // the dialler has hung up
		}
		if err := a.dispatch(ctx, s, m); err != nil {
			log.Warn("session", "cause", err)
			a.refuse(ctx, s, err)
			return
		}
		switch m.(type) {
		case transport.Offer, transport.Resume:
			return // one migration a session: what still comes was for that one
		}
	}
}

// endTimeout bounds the wait for a peer to read our last words.
const endTimeout = 3 * time.Second

func (a *Agent) end(ctx context.Context, s *transport.Session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if err := s.Finish(ctx); err != nil {
		a.log.Debug("end of session", "peer", s.Peer(), "cause", err)
	}
}

// forbidden is what a peer gets whose name is on another list.
type forbidden struct{ peer, flag string }

func (f *forbidden) Error() string { return "host " + f.peer + " may not do that here" }

func (f *forbidden) Failure() migrate.Failure {
	return migrate.Failure{What: f.Error(), Advice: fmt.Sprintf("start the agent there with %s %s", f.flag, f.peer)}
}

func (a *Agent) dispatch(ctx context.Context, s *transport.Session, m transport.Message) error {
	err := a.permit(s.Peer(), m)
	a.requested(s.Peer(), m, err)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case transport.Offer:
		return a.receive(ctx, s, m)
	case transport.Resume:
		return a.resume(ctx, s, m)
	case transport.Look:
		return a.look(ctx, s, m)
	case transport.ClockPing:
		return pong(ctx, s, m)
	case transport.Ask:
		return a.answerAsk(ctx, s, m)
	case transport.Verdict:
		return a.takeVerdict(ctx, s, m)
	case transport.Drive:
		return a.drive(ctx, s, m)
	case transport.Status:
		return s.Send(ctx, a.cfg.Source.Status())
	}
	return a.operate(ctx, s, m)
}

// refuse tells the peer why the session ends.
func (a *Agent) refuse(ctx context.Context, s *transport.Session, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	f, _ := migrate.FailureOf(err)
	if err := s.Send(ctx, transport.Abort{Status: migrate.StatusFailed, Failure: f}); err != nil {
		a.log.Debug("refuse", "peer", s.Peer(), "cause", err)
	}
}

// answerAsk tells what this host has on record about either side.
func (a *Agent) answerAsk(ctx context.Context, s *transport.Session, m transport.Ask) error {
	id, err := migrate.ParseID(string(m.ID))
	if err != nil {
		return err
	}
	if m.Side == migrate.Source {
		state, err := a.cfg.Source.State(ctx, id)
		if err != nil {
			return err
		}
		return s.Send(ctx, state)
	}
	peer, err := a.journal.State(id, migrate.Target)
	if err != nil {
		return err
	}
	return s.Send(ctx, inquiry.State(id, migrate.Target, peer))
}

// takeVerdict hands a verdict to the migration that waits for it. Only the
// host that it came from may decide it.
func (a *Agent) takeVerdict(ctx context.Context, s *transport.Session, m transport.Verdict) error {
	rec, err := a.journal.Get(m.ID, migrate.Target)
	if err != nil {
		return err
	}
	if rec.PeerName != s.Peer() {
		return fmt.Errorf("migration %s came from %s: host %s has no say in it", m.ID, rec.PeerName, s.Peer())
	}
	a.mu.Lock()
	r := a.live[m.ID]
	a.mu.Unlock()
	if r != nil {
		done, err := r.decide(ctx, m.Commit)
		if err != nil {
			return err
		}
		return s.Send(ctx, done)
	}
	peer, err := a.journal.State(m.ID, migrate.Target)
	if err != nil {
		return err
	}
	return s.Send(ctx, transport.VerdictDone{Phase: peer.Phase})
}

// drive has the source side move one of this host's workloads away, and tells
// the operator how it goes. The operator's Cancel, or hanging up, cancels.
func (a *Agent) drive(ctx context.Context, s *transport.Session, m transport.Drive) error {
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	defer listening.Wait()
	defer cancel()
	listening.Go(func() {
		_, _ = s.Receive(ctx) // a Cancel, or the end of the session
		cancel()
	})
	report, err := a.cfg.Source.Drive(ctx, m, func(e migrate.Event) {
		if e.Report == nil {
			_ = s.Send(ctx, transport.Progress{Event: e}) // who does not hear it asks for the report
		}
	})
	if err != nil {
		return err
	}
	return s.Send(context.WithoutCancel(ctx), transport.Progress{Event: migrate.Event{Type: "result", ID: report.ID, Report: report}})
}
