package target

import (
	"testing"
	"time"

	"migrate"
)

func TestRestoreMode(t *testing.T) {
	const eager, lazy, auto = migrate.RestoreEager, migrate.RestoreLazy, migrate.RestoreAuto
	tests := []struct {
		asked   migrate.RestoreMode
		canLazy bool
		mib     uint64
		want    migrate.RestoreMode
	}{
		{auto, true, 1024, lazy}, {auto, true, 33, lazy}, {auto, true, 32, eager}, {auto, true, 0, eager},
		{auto, false, 1024, eager}, {eager, true, 1024, eager}, {lazy, true, 1, lazy}, {lazy, true, 1024, lazy},
		{lazy, false, 1024, eager}, // preflight has said no
	}
	for _, tt := range tests {
		if got := restoreMode(tt.asked, tt.canLazy, tt.mib<<20); got != tt.want {
			t.Errorf("restoreMode(%s, %v, %d MiB) = %s, want %s", tt.asked, tt.canLazy, tt.mib, got, tt.want)
		}
	}
}

// TestCostsFollowWhatRestoresTook goes from the first guess to what this host
// takes, and lets no single restore decide.
func TestCostsFollowWhatRestoresTook(t *testing.T) {
	const bytes = 1 << 30
	c := newCosts()
	p := c.prepared(migrate.RestoreEager)
	if p.Lazy || p.RestoreFixedNS != 25e6 || p.RestorePerMiBNS != 600e3 {
		t.Errorf("before the first restore: %+v", p)
	}
	if p := c.prepared(migrate.RestoreLazy); !p.Lazy || p.RestoreFixedNS != 30e6 || p.RestorePerMiBNS != 0 {
		t.Errorf("before the first lazy restore: %+v", p)
	}
	c.observe(migrate.RestoreEager, bytes, time.Hour)
	if got := c.byMode[migrate.RestoreEager].of(bytes); got > 3*time.Second {
		t.Errorf("one restore of an hour: the next is thought to take %v", got)
	}
	for range 30 {
		c.observe(migrate.RestoreEager, bytes, 2*time.Second)
	}
	if got := c.byMode[migrate.RestoreEager].of(bytes); got < 1900*time.Millisecond || got > 2100*time.Millisecond {
		t.Errorf("after 30 restores of 2 s: %v", got)
	}
	if p := c.prepared(migrate.RestoreLazy); p.RestoreFixedNS != 30e6 {
		t.Errorf("eager restores changed the cost of lazy ones: %+v", p)
	}
	for range 100 {
		c.observe(migrate.RestoreLazy, bytes, 0)
	}
	if p := c.prepared(migrate.RestoreLazy); p.RestoreFixedNS < 0 {
		t.Errorf("after restores that took no time: %+v", p)
	}
}
