package source

import (
	"strings"
	"sync"
	"testing"
	"time"

	"migrate"
)

func TestChangeSettings(t *testing.T) {
	l := newLiveSettings(migrate.Options{}.WithDefaults())
	var caps []int64
	l.onBandwidth(func(n int64) { caps = append(caps, n) })
	limit, rate, rounds, zero := 500*time.Millisecond, int64(1<<20), 7, time.Duration(0)
	throttle := migrate.DefaultThrottle
	o, err := l.change(Settings{DowntimeLimit: &limit, Bandwidth: &rate, MaxRounds: &rounds, AutoConverge: &throttle})
	if err != nil || o.DowntimeLimit != limit || o.Bandwidth != rate || o.MaxRounds != rounds || o.AutoConverge != throttle {
		t.Errorf("change = %+v, %v", o, err)
	}
	if p := l.limits(); p.Downtime != limit || p.MaxRounds != rounds || p.AutoConverge != throttle || p.TimeoutAction != migrate.TimeoutAuto {
		t.Errorf("limits = %+v", p)
	}
	rate = 5
	if _, err := l.change(Settings{DowntimeLimit: &zero, Bandwidth: &rate}); err == nil || !strings.Contains(err.Error(), "downtime-limit") {
		t.Errorf("a limit of 0: %v", err)
	}
	if o := l.now(); o.DowntimeLimit != limit || o.Bandwidth != 1<<20 {
		t.Errorf("after a wrong change: %+v, want all as before", o)
	}
	if len(caps) != 2 || caps[0] != 0 || caps[1] != 1<<20 {
		t.Errorf("caps %v, want the first and the changed one", caps)
	}
}

// TestAskWhileRunning changes settings over the socket, as another terminal does.
func TestAskWhileRunning(t *testing.T) {
	m, err := New(Config{StateDir: t.TempDir(), RunDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	v, cancel, err := m.begin(t.Context(), Request{ID: "00000000000000aa"})
	if err != nil {
		t.Fatal(err)
	}
	defer cancel(nil)
	defer v.close()
	v.events.phase(migrate.PreCopy)
	if err := v.listen(); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			rate := int64(1000 + n)
			if o, err := Change(m.cfg.RunDir, v.id, Settings{Bandwidth: &rate}); err != nil || o.Bandwidth != rate {
				t.Errorf("Change = %+v, %v", o, err)
			}
		})
	}
	all.Wait()
	v.events.phase(migrate.StopAndCopy)
	rounds, rate := 3, int64(0)
	if _, err := Change(m.cfg.RunDir, v.id, Settings{MaxRounds: &rounds}); err == nil || !strings.Contains(err.Error(), "frozen already") {
		t.Errorf("rounds of a frozen workload: %v", err)
	}
	if o, err := Change(m.cfg.RunDir, v.id, Settings{Bandwidth: &rate}); err != nil || o.Bandwidth != 0 {
		t.Errorf("bandwidth of a frozen workload: %+v, %v", o, err)
	}
	rate = -1
	if _, err := Change(m.cfg.RunDir, v.id, Settings{Bandwidth: &rate}); err == nil {
		t.Error("a bandwidth below 0 was taken")
	}
	if _, err := Change(m.cfg.RunDir, "00000000000000bb", Settings{}); err != ErrNotLive {
		t.Errorf("no such move: %v, want ErrNotLive", err)
	}
}
