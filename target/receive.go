package target

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"migrate"
	"migrate/clock"
	"migrate/internal/atomicfile"
	"migrate/internal/failpoint"
	"migrate/journal"
	"migrate/supervisor"
	"migrate/target/pagestore"
	"migrate/transport"
	"migrate/workload"
)

// A receiver is one migration coming in. One goroutine takes it from Prepare
// to its end; verdicts from other sessions reach it through a channel.
type receiver struct {
	*Agent
	id       migrate.ID
	offer    transport.Offer
	network  *supervisor.NetworkSpec // nil if none comes
	entry    *journal.Entry
	super    *supervisor.Client
	store    *pagestore.Store
	dir      string
	reserved uint64
	mode     migrate.RestoreMode // eager or lazy
	rounds   *rounds
	trees    []*staging // files that come too
	clock    migrate.Clock
	verdicts chan verdict
	finished chan struct{} // the source said that its copy is gone
	runs     bool          // the tree was let go: what is left is to clean up behind it
	over     chan struct{}
	link     *link
}

// A verdict is the source's decision, however it got here.
type verdict struct {
	commit bool
	done   chan<- transport.VerdictDone // may be nil
}

// receive answers an offer and, unless something is in the way or only a check
// was asked for, takes the workload in.
func (a *Agent) receive(ctx context.Context, s *transport.Session, o transport.Offer) error {
	if _, err := migrate.ParseID(string(o.ID)); err != nil {
		return err
	}
	if err := errors.Join(workload.ValidName(o.Workload.Name), workload.ValidLabels(o.Workload.Labels), o.Options.Validate(), validContainer(o), a.validTrees(o)); err != nil {
		return err
	}
	if !o.CheckOnly {
		a.replace(s.Peer(), o.Workload.Name)
	}
	check, err := a.check(ctx, o)
	if err != nil {
		return err
	}
	if err := s.Send(ctx, transport.Answer{Check: check}); err != nil {
		return err
	}
	if o.CheckOnly || len(check.Blockers) > 0 {
		return nil
	}
	m, err := s.Receive(ctx)
	if errors.Is(err, transport.ErrPeerCloses) || errors.Is(err, io.EOF) {
		return nil // the source changed its mind before anything was reserved
	}
	if err != nil {
		return err
	}
	switch m.(type) {
	case transport.Prepare:
	case transport.Abort:
		return nil
	default:
		return fmt.Errorf("%T where Prepare was due", m)
	}
	r := a.newReceiver(o.ID, o)
	if r.network, err = networkOf(o); err != nil {
		return err
	}
	r.mode = restoreMode(o.Options.Restore, check.Target.LazyPages, o.Workload.MemoryBytes)
	return r.run(ctx, s)
}

func (a *Agent) newReceiver(id migrate.ID, o transport.Offer) *receiver {
	return &receiver{
		Agent: a, id: id, offer: o, dir: filepath.Join(a.cfg.Store, string(id)),
		verdicts: make(chan verdict), finished: make(chan struct{}), over: make(chan struct{}),
		rounds: newRounds(), link: newLink(),
	}
}

// run takes a migration to its end. Its record comes first, and its ID can be
// in the journal only once, so no peer can get between another and its receiver.
// A workload that runs may still be without some of its memory: the source has
// no part in that, and does not wait for it.
func (r *receiver) run(ctx context.Context, s *transport.Session) error {
	if err := r.begin(s); err != nil {
		return err
	}
	r.register()
	err := r.carry(ctx, s)
	r.link.end(err)
	if !r.runs {
		r.unregister()
		return err
	}
	r.work.Go(func() {
		defer r.unregister()
		r.complete(ctx)
	})
	return err
}

// carry takes a migration in and through its verdict. Until it is held, every
// error discards it.
func (r *receiver) carry(ctx context.Context, s *transport.Session) error {
	s, err := r.toHeld(ctx, s)
	if err != nil {
		return errors.Join(err, r.discard(ctx, err))
	}
	return r.hold(ctx, s)
}

func (r *receiver) register() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[r.id] = r
}

func (r *receiver) unregister() {
	r.mu.Lock()
	delete(r.live, r.id)
	r.Agent.reserved -= r.reserved
	r.mu.Unlock()
	close(r.over)
	if r.super != nil {
		r.super.Close()
	}
	if r.entry != nil {
		r.entry.Close()
	}
}

// longest is how long a move may take here: a source whose time for pre-copy
// is up may still freeze and finish.
func longest(o migrate.Options) time.Duration { return o.Timeout + o.FreezeTimeout + undoTimeout }

// toHeld prepares, takes pages and images, and restores. A source that is
// there but does not go on has as long as its own time-outs for the whole move.
// It returns the session on which the target voted.
func (r *receiver) toHeld(ctx context.Context, s *transport.Session) (*transport.Session, error) {
	defer r.link.settle()
	ctx, cancel := context.WithTimeoutCause(ctx, longest(r.offer.Options), errStalled)
	defer cancel()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	if err := r.sayPrepared(ctx, s); err != nil && !r.resumable(err) {
		return nil, err
	}
	return r.takeUntilVote(ctx, s)
}

// takeUntilVote takes what comes on one session after the other: when one
// breaks during pre-copy, the source may go on with another.
func (r *receiver) takeUntilVote(ctx context.Context, s *transport.Session) (*transport.Session, error) {
	for {
		r.link.use(s)
		err := r.takeIn(ctx, s)
		if err == nil {
			return s, nil
		}
		if !r.resumable(err) {
			return nil, err
		}
		if s, err = r.awaitSession(ctx, err); err != nil {
			return nil, err
		}
	}
}

// takeIn does as the messages of one session say, up to the vote.
func (r *receiver) takeIn(ctx context.Context, s *transport.Session) error {
	intake := r.startIntake(ctx, s)
	defer intake.stop()
	for {
		m, err := s.Receive(intake.ctx)
		if err != nil {
			if cause := context.Cause(intake.ctx); cause != nil { // what came on a stream was no good
				return cause
			}
			return fmt.Errorf("connection to the source: %w", err)
		}
		switch m := m.(type) {
		case transport.ClockPing:
			err = pong(ctx, s, m)
		case transport.RoundEnd:
			err = r.rounds.end(intake.ctx, m)
			if err == nil && !m.Final {
				err = s.Send(ctx, transport.RoundAck{Round: m.Round, StoredPages: r.store.Pages()})
			}
		case transport.Restore:
			r.link.settle()
			return r.restore(ctx, s, intake, m)
		case transport.Abort:
			return &aborted{m.Status, m.Failure}
		default:
			err = fmt.Errorf("unexpected %T", m)
		}
		if err != nil {
			return err
		}
	}
}

func difference(mono, boot transport.Bounds) clock.Difference {
	return clock.Difference{
		Monotonic: clock.Bounds{Offset: time.Duration(mono.OffsetNS), Error: time.Duration(mono.BoundNS)},
		Boottime:  clock.Bounds{Offset: time.Duration(boot.OffsetNS), Error: time.Duration(boot.BoundNS)},
	}
}

var errStalled = errors.New("the move took longer than its --timeout allows")

// aborted is the source's own rollback.
type aborted struct {
	status  migrate.Status
	failure migrate.Failure
}

func (a *aborted) Error() string { return "the source rolled back: " + a.failure.What }

func (a *aborted) Failure() migrate.Failure { return a.failure }

func pong(ctx context.Context, s *transport.Session, m transport.ClockPing) error {
	received := clock.Now()
	return s.Send(ctx, transport.ClockPong{Seq: m.Seq, Ping: m.Sent, Received: received, Replied: clock.Now()})
}

// prepare reserves memory and a directory, and starts the supervisor with its
// CRIU, so that nothing has to start inside the downtime.
func (r *receiver) prepare(ctx context.Context) error {
	w := r.offer.Workload
	r.reserved = migrate.StoreReservation(w.MemoryBytes)
	r.mu.Lock()
	r.Agent.reserved += r.reserved
	r.mu.Unlock()
	if err := r.entry.Step(migrate.Prepare, nil); err != nil {
		return err
	}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return &storeError{err}
	}
	var err error
	if r.store, err = pagestore.New(r.dir, r.reserved, r.mode == migrate.RestoreLazy, r.grow); err != nil {
		return &storeError{err}
	}
	if len(r.offer.Init) > 0 {
		if err := r.installInit(); err != nil {
			return err
		}
	}
	if w.Container != nil {
		if err := r.installBundle(); err != nil {
			return err
		}
	}
	if err := r.prepareNetwork(); err != nil {
		return err
	}
	if err := r.openTrees(); err != nil {
		return err
	}
	r.super, err = supervisor.Start(ctx, supervisor.StartConfig{
		Name: w.Name, StateDir: r.cfg.StateDir, RunDir: r.cfg.RunDir, Program: r.cfg.Program,
		AvoidPIDs: supervisor.PIDs(w), Logger: r.log,
	})
	if err != nil {
		return err
	}
	return r.super.Prepare(ctx, supervisor.PrepareSpec{
		Name: w.Name, Migration: r.id, Workload: w, CRIU: r.tool, Lazy: r.mode == migrate.RestoreLazy,
		Network: r.network,
	})
}

// label keeps the labels that came with the workload.
func (r *receiver) label(pid int) error {
	if len(r.offer.Workload.Labels) == 0 {
		return nil
	}
	root, err := workload.Identify(pid)
	if err != nil {
		return err
	}
	w := r.offer.Workload
	return workload.SaveLabels(r.cfg.StateDir, workload.Labelled{Name: w.Name, Kind: workload.Kind(w.Kind), Root: root, Labels: w.Labels})
}

// installInit puts the workload's own tiny init where it is on the source, if
// that is this host's directory for them and the content is what the name says:
// a peer can place no other file.
func (r *receiver) installInit() error {
	sum := sha256.Sum256(r.offer.Init)
	want := filepath.Join(r.cfg.StateDir, "bin", "init-"+hex.EncodeToString(sum[:8]))
	if r.offer.Workload.Init != want {
		return fmt.Errorf("the workload's init is %s on the source and would be %s here: both hosts need the same --state-dir", r.offer.Workload.Init, want)
	}
	if _, err := os.Stat(want); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(want), 0o755); err != nil {
		return err
	}
	return atomicfile.WriteFile(want, r.offer.Init, 0o755)
}

func (r *receiver) begin(s *transport.Session) error {
	var err error
	r.entry, err = r.journal.Begin(journal.Record{
		ID: r.id, Side: migrate.Target, Phase: migrate.Preflight,
		Name: r.offer.Workload.Name, Workload: r.offer.Workload.Kind + ":" + r.offer.Workload.ID,
		Peer: r.offer.ReplyTo, PeerName: s.Peer(), StoreDir: r.dir,
		Started: time.Now(), Status: migrate.StatusActive, Options: r.offer.Options,
	})
	return err
}

// restore has the supervisor restore and hold, and votes yes.
func (r *receiver) restore(ctx context.Context, s *transport.Session, in *intake, m transport.Restore) error {
	ctx, cancel := context.WithTimeout(ctx, r.offer.Options.FreezeTimeout)
	defer cancel()
	begun := time.Now()
	if !r.rounds.complete() {
		return fmt.Errorf("%w: the word to restore comes before the final round ended", transport.ErrProtocol)
	}
	net, err := r.frozenNetwork(m)
	if err != nil {
		return err
	}
	in.seal()
	if err := in.endImages(m.Images); err != nil {
		return err
	}
	if err := r.store.Finish(); err != nil {
		return err
	}
	if err := r.entry.Step(migrate.Restore, nil); err != nil {
		return err
	}
	if err := r.commitTrees(ctx, m.Trees); err != nil {
		return err
	}
	synced := r.syncTrees()
	held, err := r.super.Restore(ctx, supervisor.RestoreSpec{
		Migration: r.id, Name: r.offer.Workload.Name, Workload: asOffered(r.offer.Workload, m.Workload),
		ImagesDir: r.store.Images(), Options: r.offer.Options,
		Lazy: r.mode == migrate.RestoreLazy, LazyMap: r.store.LazyMap(),
		Clock:   supervisor.ClockSpec{Difference: difference(m.Monotonic, m.Boottime), FrozenAt: m.FrozenAt, HasTimens: m.Timens},
		Network: net,
	})
	if err != nil {
		return err
	}
	if err := synced(); err != nil {
		return &filesError{err}
	}
	r.clock = held.Clock
	if err := r.label(held.PID); err != nil {
		return err
	}
	if err := r.entry.Step(migrate.Held, func(j *journal.Record) { j.RootPID = held.PID }); err != nil {
		return err
	}
	r.costs.observe(r.mode, m.Workload.MemoryBytes, time.Since(begun))
	if n := r.store.Verified(); n > 0 {
		r.log.Info("pages are as on the frozen source", "migration", r.id, "pages", n)
	}
	if err := s.Send(ctx, transport.Held{Clock: r.clock, Restore: r.mode}); err != nil {
		r.log.Warn("the vote may not have arrived", "migration", r.id, "cause", err)
	}
	failpoint.Reach("target:voted")
	return nil
}
