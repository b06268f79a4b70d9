package supervisor

import (
	"context"
	"errors"
)

// resume lets the held tree go, and waits until it runs.
func (s *server) resume(ctx context.Context) (Resumed, error) {
	st := s.snapshot()
	if st.State == Held {
		s.currentAttempt().pronounce(resumeIt)
		var err error
		if st, err = s.await(ctx, func(st Status) bool { return st.State != Held }); err != nil {
			return Resumed{}, err
		}
	}
	if st.Resumed != nil { // now, or before, for somebody else
		return *st.Resumed, nil
	}
	return Resumed{}, refusal(st, "nothing here can be resumed")
}

// currentAttempt returns the one whose tree is restored or held.
func (s *server) currentAttempt() *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attempt == nil {
		return &attempt{verdict: make(chan verdict, 1), cancel: func(error) {}} // it has just ended
	}
	return s.attempt
}

// discard removes what does not run yet, and ends the supervisor.
func (s *server) discard(ctx context.Context) error {
	for {
		st := s.snapshot()
		switch {
		case unvoted(st.State):
			if done, err := s.discardIdle(); done {
				return err
			}
			continue // a restore began just now
		case st.State == Restoring:
			s.currentAttempt().cancel(errDiscarded)
		case st.State == Held:
			s.currentAttempt().pronounce(discardIt)
		case st.State == Discarded:
			return nil
		default:
			return refusal(st, "it is too late to discard: stop the workload instead")
		}
		if _, err := s.await(ctx, func(now Status) bool { return now.State != st.State }); err != nil {
			return err
		}
	}
}

// discardIdle removes what a supervisor without a tree has made. done is false
// if it has a tree by now.
func (s *server) discardIdle() (done bool, err error) {
	s.ops.Lock()
	defer s.ops.Unlock()
	if st := s.snapshot().State; !unvoted(st) {
		return st == Discarded, nil
	}
	s.mu.Lock()
	a, group := s.attempt, s.group
	s.mu.Unlock()
	if a != nil {
		err = s.dropAttempt(a)
	}
	if group != nil {
		err = errors.Join(err, s.emptyGroup())
	}
	if err != nil {
		return true, err
	}
	return true, s.leave(Discarded)
}
