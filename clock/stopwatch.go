package clock

import (
	"sync"
	"time"

	"migrate"
)

// Stopwatch notes when the phases of a migration began and how long they took.
// It is safe for concurrent use.
type Stopwatch struct {
	start time.Time

	mu     sync.Mutex
	began  time.Time // of the running phase; zero if none runs
	phases []migrate.PhaseTiming
}

// NewStopwatch starts a stopwatch in no phase.
func NewStopwatch() *Stopwatch { return &Stopwatch{start: time.Now()} }

// Phase ends the running phase, if any, and begins another. To begin the
// phase that runs already does nothing.
func (s *Stopwatch) Phase(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if n := len(s.phases); !s.began.IsZero() && s.phases[n-1].Name == name {
		return
	}
	s.end(now)
	s.began = now
	s.phases = append(s.phases, migrate.PhaseTiming{Name: name, Start: migrate.Millis(now.Sub(s.start))})
}

// Stop ends the running phase.
func (s *Stopwatch) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(time.Now())
	s.began = time.Time{}
}

// Timings returns the phases in the order in which they began; a running one
// with its duration up to now.
func (s *Stopwatch) Timings() []migrate.PhaseTiming {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(time.Now())
	return append([]migrate.PhaseTiming{}, s.phases...)
}

// Elapsed returns the time since the start.
func (s *Stopwatch) Elapsed() time.Duration { return time.Since(s.start) }

// end sets the duration of the running phase.
func (s *Stopwatch) end(now time.Time) {
	if !s.began.IsZero() {
		s.phases[len(s.phases)-1].Duration = migrate.Millis(now.Sub(s.began))
	}
}
