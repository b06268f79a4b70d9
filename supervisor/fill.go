package supervisor

import "context"

// awaitFill waits until the workload has its memory.
func (s *server) awaitFill(ctx context.Context) (Status, error) {
	st, err := s.await(ctx, func(st Status) bool {
		return st.Fill == nil || st.Fill.Complete || st.Fill.Failure != nil || st.Exit != nil
	})
	switch {
	case err != nil, st.Fill == nil, st.Fill.Complete:
		return st, err
	case st.Fill.Failure != nil:
		return st, &Error{*st.Fill.Failure}
	}
	return st, refusal(st, "its memory was not filled before it ended")
}
