package clock

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"migrate"
)

func TestStopwatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStopwatch()
		if got := s.Timings(); got == nil || len(got) != 0 {
			t.Errorf("Timings = %v, want an empty list", got)
		}
		time.Sleep(1)
		s.Phase("connect")
		time.Sleep(10)
		s.Phase("connect")
		time.Sleep(10)
		s.Phase("freeze")
		time.Sleep(5)
		want := []migrate.PhaseTiming{{Name: "connect", Start: 1, Duration: 20}, {Name: "freeze", Start: 21, Duration: 5}}
		if got := s.Timings(); !slices.Equal(got, want) {
			t.Errorf("Timings while it runs = %v, want %v", got, want)
		}
		s.Stop()
		time.Sleep(100)
		if got := s.Timings(); !slices.Equal(got, want) {
			t.Errorf("Timings after Stop = %v, want %v", got, want)
		}
		s.Phase("freeze")
		if got := len(s.Timings()); got != 3 || s.Elapsed() != 126 {
			t.Errorf("%d phases after %v, want 3 after 126ns", got, s.Elapsed())
		}
	})
}
