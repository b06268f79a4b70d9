package transport

import (
	"context"
	"fmt"

	"migrate"
)

// An AbortError is the peer's reason for giving up, as its Abort tells it.
type AbortError struct{ Reason migrate.Failure }

// Error returns what failed there.
func (e *AbortError) Error() string { return "the peer gave up: " + e.Reason.What }

// Failure returns the peer's words.
func (e *AbortError) Failure() migrate.Failure { return e.Reason }

// Call sends a message and receives the one that answers it, which must be a
// T. An Abort in its place is an [*AbortError].
func Call[T Message](ctx context.Context, s *Session, m Message) (T, error) {
	var none T
	if err := s.Send(ctx, m); err != nil {
		return none, err
	}
	got, err := s.Receive(ctx)
	if err != nil {
		return none, err
	}
	return Expect[T](got)
}

// Expect returns a message that must be a T. An Abort in its place is an
// [*AbortError].
func Expect[T Message](m Message) (T, error) {
	want, ok := m.(T)
	if ok {
		return want, nil
	}
	if a, ok := m.(Abort); ok {
		return want, &AbortError{a.Failure}
	}
	return want, fmt.Errorf("the peer sent %T where %T was due", m, want)
}
