package predump

import (
	"math"
	"testing"
	"time"

	"migrate"
)

func pass1(sent uint64, d time.Duration) migrate.Round {
	return migrate.Round{Sent: sent, Duration: migrate.Millis(d)}
}

func TestNext(t *testing.T) {
	const ms = time.Millisecond
	all := pass1(262144, 1200*ms) // 1 GiB: 200 ms to read, 1 s to send
	for _, c := range []struct {
		name   string
		rounds []migrate.Round
		o      PolicyOptions
		want   Decision
	}{
		{"nothing yet", nil, PolicyOptions{}, Again},
		{"one pass says nothing", []migrate.Round{all}, PolicyOptions{}, Again},
		{"one pass allowed", []migrate.Round{all}, PolicyOptions{MaxRounds: 1}, Freeze},
		{"a quarter changed", []migrate.Round{all, pass1(65536, 450*ms)}, PolicyOptions{}, Again},
		{"hardly anything changed", []migrate.Round{all, pass1(500, 202*ms)}, PolicyOptions{}, Freeze},
		{"all changed again", []migrate.Round{all, all}, PolicyOptions{}, Freeze},
		{"more than was sent", []migrate.Round{all, pass1(300000, 1300*ms)}, PolicyOptions{}, Freeze},
		{"gain below what is asked", []migrate.Round{all, pass1(65536, 450*ms)}, PolicyOptions{MinGain: time.Second}, Freeze},
		{"enough passes", []migrate.Round{all, pass1(65536, 450*ms), pass1(20000, 280*ms)}, PolicyOptions{}, Freeze},
		{"more passes allowed", []migrate.Round{all, pass1(131072, 700*ms), pass1(70000, 470*ms)}, PolicyOptions{MaxRounds: 9}, Again},
		{"small workload", []migrate.Round{pass1(2560, 12*ms), pass1(300, 3*ms)}, PolicyOptions{}, Freeze},
		{"no durations", []migrate.Round{pass1(100, 0), pass1(50, 0)}, PolicyOptions{}, Freeze},
		{"slower though less was sent", []migrate.Round{pass1(100, ms), pass1(50, 2*ms)}, PolicyOptions{}, Freeze},
	} {
		if got := Next(c.rounds, c.o); got != c.want {
			t.Errorf("%s: Next = %v, want %v", c.name, got, c.want)
		}
	}
}

// writer is a workload that writes at random to part of its memory.
type writer struct {
	pages, working uint64  // in all; that it writes to
	rate           float64 // writes per second
}

// dirty returns how many pages it changes in d.
func (w writer) dirty(d time.Duration) uint64 {
	return uint64(float64(w.working) * (1 - math.Exp(-w.rate*d.Seconds()/float64(w.working))))
}

// migrateWith makes passes until the policy says so, and returns their number
// and for how long the freeze has to send.
func (w writer) migrateWith(read, send time.Duration, o PolicyOptions) (passes int, freeze time.Duration) {
	var rounds []migrate.Round
	changed := w.pages
	for Next(rounds, o) == Again {
		d := read*time.Duration(w.pages) + send*time.Duration(changed)
		rounds = append(rounds, pass1(changed, d))
		changed = w.dirty(d)
	}
	return len(rounds), send * time.Duration(changed)
}

// TestNextAgainstWriters: the policy's number of passes is close to the best
// that any number up to its limit could do.
func TestNextAgainstWriters(t *testing.T) {
	const read, send = 800 * time.Nanosecond, 4 * time.Microsecond // per page: 5 GB/s and 1 GB/s
	for name, w := range map[string]writer{
		"idle":           {262144, 1000, 10},
		"busy":           {262144, 65536, 20000},
		"small hot set":  {262144, 2000, 1e6},
		"rewrites all":   {262144, 262144, 1e7},
		"small workload": {2560, 2560, 1000},
	} {
		passes, freeze := w.migrateWith(read, send, PolicyOptions{})
		best := time.Hour
		for n := 1; n <= 3; n++ {
			_, f := w.migrateWith(read, send, PolicyOptions{MaxRounds: n, MinGain: -time.Hour})
			best = min(best, f)
		}
		t.Logf("%s: %d passes, %v of freeze", name, passes, freeze)
		if freeze > best+25*time.Millisecond {
			t.Errorf("%s: freeze sends for %v after %d passes, best is %v", name, freeze, passes, best)
		}
	}
	if passes, _ := (writer{262144, 262144, 1e7}).migrateWith(read, send, PolicyOptions{}); passes > 2 {
		t.Errorf("%d passes over memory that is rewritten all the time, want 2", passes)
	}
}
