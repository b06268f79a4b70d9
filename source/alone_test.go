package source

import (
	"context"
	"errors"
	"testing"
	"time"

	"migrate"
	"migrate/workload/oci"
)

// TestAlone has a capsule wait until another one's dump is over, and nobody else.
func TestAlone(t *testing.T) {
	run := t.TempDir()
	as := func(rootPID int) *move {
		return &move{Mover: &Mover{cfg: Config{RunDir: run}}, facts: migrate.Workload{RootPID: rootPID}}
	}
	release, err := as(1).alone(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	container := as(1)
	container.container = &oci.Container{}
	for name, other := range map[string]*move{"process": as(4711), "container": container} {
		release, err := other.alone(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		release()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := as(1).alone(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another capsule is not kept waiting: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, release)
	second, err := as(1).alone(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second()
	second()
}
