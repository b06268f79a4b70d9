package target

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"migrate"
	"migrate/transport"
)

// resumeTime is how long a source whose link broke may take to come back. Its
// pages are kept until then.
const resumeTime = time.Minute

// A link is how a migration that has not voted hangs together with its source:
// by one session at a time. Make it with newLink.
type link struct {
	arrivals chan *transport.Session // of sources that came back; taken only while one is missed
	replaced chan struct{}           // an offer has come in place of the migration; likewise
	settled  chan struct{}           // closed: no other session is taken any more
	ended    chan struct{}           // closed: the source has no more part in it

	mu      sync.Mutex
	session *transport.Session
	final   bool  // settled is closed
	err     error // why it ended
}

func newLink() *link {
	return &link{
		arrivals: make(chan *transport.Session), replaced: make(chan struct{}),
		settled: make(chan struct{}), ended: make(chan struct{}),
	}
}

func (l *link) use(s *transport.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = s
}

// settle says that from now on the session is the last.
func (l *link) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.final {
		l.final = true
		close(l.settled)
	}
}

func (l *link) isSettled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.final
}

func (l *link) end(err error) {
	l.err = err
	close(l.ended)
}

// cut closes the session: a source that dials again has given it up, even if
// nothing of that can be seen here yet.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil && !l.final {
		l.session.Close(transport.CodeCancelled, "taken up on another session")
	}
}

// offer gives the migration another session, and returns when the source has no
// more part in it.
func (l *link) offer(ctx context.Context, s *transport.Session) error {
	l.cut()
	select {
	case l.arrivals <- s:
	case <-l.settled:
		return &notHere{"the migration cannot be taken up any more: it was being restored"}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	<-l.ended
	return l.err
}

// resume hands a source that dialled again to the migration that misses it.
func (a *Agent) resume(ctx context.Context, s *transport.Session, m transport.Resume) error {
	a.mu.Lock()
	r := a.live[m.ID]
	a.mu.Unlock()
	if r == nil {
		return &notHere{"the migration is not under way here any more"}
	}
	if from := r.entry.Record().PeerName; from != s.Peer() {
		return fmt.Errorf("migration %.40q came from %s: host %s has no say in it", m.ID, from, s.Peer())
	}
	return r.link.offer(ctx, s)
}

// notHere is a migration that a source wants to take up, and cannot.
type notHere struct{ what string }

func (n *notHere) Error() string { return n.what }

// Failure says what to do.
func (n *notHere) Failure() migrate.Failure {
	return migrate.Failure{What: n.what, Advice: "move it again"}
}

// replace ends a migration of the same workload that waits for its source in
// vain: the source has begun anew.
func (a *Agent) replace(peer, name string) {
	a.mu.Lock()
	var old *receiver
	for _, r := range a.live {
		if rec := r.entry.Record(); rec.Name == name && rec.PeerName == peer {
			old = r
		}
	}
	a.mu.Unlock()
	if old == nil {
		return
	}
	select {
	case old.link.replaced <- struct{}{}:
		<-old.over
	default: // it misses nobody
	}
}

// resumable reports whether a source whose session ended so may come back.
func (r *receiver) resumable(err error) bool {
	return !r.link.isSettled() && (transport.Broken(err) || errors.Is(err, transport.ErrClosed))
}

// awaitSession waits for the source after its session broke. What is stored is
// kept meanwhile, and the source told of it.
func (r *receiver) awaitSession(ctx context.Context, cause error) (*transport.Session, error) {
	stored := r.rounds.restart()
	if begun, err := r.store.Unlist(); err != nil {
		return nil, &storeError{err}
	} else if begun {
		stored.Seq = 0 // what was listed may be gone
	}
	stored.Trees = r.treesAt()
	r.log.Warn("the link to the source broke: waiting for it", "migration", r.id, "cause", cause)
	s, err := r.missSource(ctx, cause)
	if err != nil {
		return nil, err
	}
	r.log.Info("the source is back", "migration", r.id, "rounds", stored.Round, "batches", stored.Seq)
	if err := s.Send(ctx, stored); err != nil && !r.resumable(err) {
		return nil, err
	}
	return s, nil
}

func (r *receiver) missSource(ctx context.Context, cause error) (*transport.Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, resumeTime, &goneError{cause})
	defer cancel()
	gaveUp := make(chan struct{})
	r.work.Go(func() { r.askWhetherOver(ctx, gaveUp) })
	select {
	case s := <-r.link.arrivals:
		return s, nil
	case <-r.link.replaced:
		return nil, errors.New("the source has begun to move it anew")
	case <-r.verdicts:
		return nil, errRolledBack // whatever it says: there was no vote
	case <-gaveUp:
		return nil, errRolledBack
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// goneError is a source that did not come back.
type goneError struct{ cause error }

func (e *goneError) Error() string {
	return fmt.Sprintf("the source did not come back within %v: %v", resumeTime, e.cause)
}

func (e *goneError) Unwrap() error { return e.cause }

// askWhetherOver asks the source's agent, if there is one, until nobody works
// on the migration there any more.
func (r *receiver) askWhetherOver(ctx context.Context, over chan<- struct{}) {
	address := r.entry.Record().Peer
	for address != "" && ctx.Err() == nil {
		st, err := r.stateOfSource(ctx, address)
		if err == nil && (!st.Busy || st.Phase.Over()) {
			close(over)
			return
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
		}
	}
}
