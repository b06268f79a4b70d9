package source

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"migrate"
	"migrate/transport"
)

func TestStatusOf(t *testing.T) {
	tests := []struct {
		err  error
		want migrate.Status
	}{
		{&blocked{}, migrate.StatusBlocked},
		{fmt.Errorf("round 1: %w", ErrCancelled), migrate.StatusCancelled},
		{errTimeout, migrate.StatusFailed},
		{context.Canceled, migrate.StatusFailed}, // nobody wished it
		{transport.ErrLost, migrate.StatusFailed},
		{&transport.AbortError{}, migrate.StatusFailed},
	}
	for _, tt := range tests {
		if got := statusOf(tt.err); got != tt.want {
			t.Errorf("statusOf(%v) = %s, want %s", tt.err, got, tt.want)
		}
	}
}

// TestFailureAdvises demands that every way to fail says what to do.
func TestFailureAdvises(t *testing.T) {
	for _, err := range []error{
		ErrCancelled, errTimeout, errFreezeTimeout, transport.ErrUnreachable,
		&notFound{"no process 1 on this host", "give another"}, &busy{},
	} {
		if f := Failure(fmt.Errorf("moving: %w", err)); f.What == "" || f.Advice == "" {
			t.Errorf("Failure(%v) = %+v, want what and advice", err, f)
		}
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"hostB": "hostB:7420", "hostB:99": "hostB:99", "10.0.0.2": "10.0.0.2:7420", "[fe80::1]:5": "[fe80::1]:5", "fe80::1": "[fe80::1]:7420",
	} {
		if got := Address(in); got != want {
			t.Errorf("Address(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestCause prefers why a move was stopped to what that made fail.
func TestCause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrCancelled)
	err := cmpCause(ctx, errors.New("read: broken"))
	if !errors.Is(err, ErrCancelled) {
		t.Errorf("cmpCause() = %v, want the cancel", err)
	}
}
