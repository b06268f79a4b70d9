package predump

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"migrate"
)

// A world is a workload and a link to try the policy on.
type world struct {
	pages uint64
	dirty func(from, to time.Duration) float64 // pages changed between, by the workload's own clock
	speed float64                              // pages a second on the link
	read  time.Duration                        // of a round
	costs Costs
}

// A trip is how the policy took a workload through a world.
type trip struct {
	decisions []Decision
	rounds    []migrate.Round
	throttles []int
	elapsed   time.Duration
	expected  time.Duration // as predicted at the freeze
	downtime  time.Duration // as it would have been
	why       string
}

func (t trip) end() Decision { return t.decisions[len(t.decisions)-1] }

// travel makes rounds until the policy ends them.
func (w world) travel(t *testing.T, l Limits) trip {
	t.Helper()
	var out trip
	var ran time.Duration // the workload's clock, which is slowed with it
	throttle, changed := 0, w.pages
	for range 1000 {
		took := w.read + time.Duration(float64(changed)/w.speed*1e9)
		out.rounds = append(out.rounds, migrate.Round{
			Round: len(out.rounds) + 1, Pages: w.pages, Sent: changed, Unchanged: w.pages - changed,
			Transferred: changed * PageSize, Duration: migrate.Millis(took), Throttle: throttle,
		})
		out.elapsed += took
		before := ran
		ran += time.Duration(float64(took) * (1 - float64(throttle)/100))
		changed = uint64(min(w.dirty(before, ran), float64(w.pages)))
		s := State{Rounds: out.rounds, Pages: w.pages, Elapsed: out.elapsed, Throttle: throttle, Costs: w.costs}
		d, more, why := Decide(s, l)
		if more < throttle || (more > throttle) != (d == Throttle) || more > l.AutoConverge.Max {
			t.Fatalf("%v at %d%%, then %d%%", d, throttle, more)
		}
		throttle = more
		out.decisions, out.throttles, out.why = append(out.decisions, d), append(out.throttles, throttle), why
		if d == Freeze || d == Cancel {
			out.expected, _ = Predict(s)
			out.downtime = s.fixed() + time.Duration(float64(changed)/w.speed*1e9)
			return out
		}
	}
	t.Fatal("no end after 1000 rounds")
	return out
}

// The curves: pages changed in a time.

func idle(time.Duration, time.Duration) float64 { return 20 }

func constant(perSecond float64) func(a, b time.Duration) float64 {
	return func(a, b time.Duration) float64 { return perSecond * (b - a).Seconds() }
}

// hot writes at random over a set of pages.
func hot(set, perSecond float64) func(a, b time.Duration) float64 {
	return func(a, b time.Duration) float64 {
		return set * (1 - math.Exp(-perSecond*(b-a).Seconds()/set))
	}
}

// bursty writes a lot for half of every period, and little in the other.
func bursty(high, low float64, period time.Duration) func(a, b time.Duration) float64 {
	until := func(t time.Duration) float64 {
		whole, part := float64(t/period), t%period
		return whole*(high+low)/2*period.Seconds() +
			high*min(part, period/2).Seconds() + low*max(0, part-period/2).Seconds()
	}
	return func(a, b time.Duration) float64 { return until(b) - until(a) }
}

// calming writes less and less.
func calming(perSecond float64, half time.Duration) func(a, b time.Duration) float64 {
	k := math.Ln2 / half.Seconds()
	return func(a, b time.Duration) float64 {
		return perSecond / k * (math.Exp(-k*a.Seconds()) - math.Exp(-k*b.Seconds()))
	}
}

const gigabyte = 262144 // pages

// over returns a world of 1 GiB over 1 Gbit/s with some costs.
func over(dirty func(a, b time.Duration) float64) world {
	return world{
		pages: gigabyte, dirty: dirty, speed: 29000, read: 150 * time.Millisecond,
		costs: Costs{Fixed: 20 * time.Millisecond, PerPage: 50, Restore: 30 * time.Millisecond},
	}
}

var curves = map[string]func(a, b time.Duration) float64{
	"idle":                idle,
	"below the link":      constant(8000),
	"little below it":     constant(26000),
	"above the link":      constant(90000),
	"far above the link":  constant(1e6),
	"hot set":             hot(2000, 50000),
	"large hot set":       hot(30000, 50000),
	"bursty":              bursty(60000, 200, 20*time.Second),
	"slow bursts":         bursty(60000, 200, time.Minute),
	"quick bursts":        bursty(60000, 200, 300*time.Millisecond),
	"calming":             calming(60000, 5*time.Second),
	"calming a lot later": calming(60000, 40*time.Second),
}

// TestDecideAlwaysEnds holds what is so whatever the workload does and whatever
// was asked for.
func TestDecideAlwaysEnds(t *testing.T) {
	for name, curve := range curves {
		for _, action := range []migrate.TimeoutAction{"", migrate.TimeoutAuto, migrate.TimeoutSuspend, migrate.TimeoutCancel} {
			for _, throttle := range []migrate.Throttle{{}, migrate.DefaultThrottle, {Initial: 50, Step: 50, Max: 60}} {
				for _, timeout := range []time.Duration{0, time.Minute, 10 * time.Minute} {
					for _, rounds := range []int{0, 1, 2, 5} {
						l := Limits{MaxRounds: rounds, Timeout: timeout, TimeoutAction: action, AutoConverge: throttle}
						out := over(curve).travel(t, l)
						if allowed := l.withDefaults().MaxRounds; len(out.rounds) > allowed {
							t.Errorf("%s, %+v: %d rounds", name, l, len(out.rounds))
						}
						if out.end() == Cancel && action != migrate.TimeoutCancel {
							t.Errorf("%s, %+v: cancelled, which nobody asked for", name, l)
						}
						if out.end() == Freeze && action == migrate.TimeoutCancel && len(out.rounds) > 1 && out.expected > l.withDefaults().Downtime {
							t.Errorf("%s, %+v: frozen for %v", name, l, out.expected)
						}
						if out.why == "" {
							t.Errorf("%s, %+v: no reason", name, l)
						}
					}
				}
			}
		}
	}
}

// TestDecideOverCurves is what users notice: whether the move completes, its
// downtime, and for how long it was prepared.
func TestDecideOverCurves(t *testing.T) {
	const ms = time.Millisecond
	auto := migrate.DefaultThrottle
	for _, c := range []struct {
		name     string
		limits   Limits
		end      Decision
		downtime time.Duration // at most
		rounds   int           // at most
		throttle int           // at most
	}{
		{"idle", Limits{}, Freeze, 65 * ms, 2, 0},
		{"below the link", Limits{}, Freeze, 130 * ms, 6, 0},
		{"little below it", Limits{}, Freeze, 2500 * ms, 30, 0},
		{"above the link", Limits{}, Freeze, 10 * time.Second, 4, 0},
		{"above the link", Limits{AutoConverge: auto}, Freeze, 300 * ms, 20, 90},
		{"above the link", Limits{TimeoutAction: migrate.TimeoutCancel}, Cancel, time.Minute, 30, 0},
		{"above the link", Limits{TimeoutAction: migrate.TimeoutCancel, Timeout: time.Minute}, Cancel, time.Minute, 6, 0},
		{"above the link", Limits{TimeoutAction: migrate.TimeoutSuspend, Timeout: time.Minute}, Freeze, 10 * time.Second, 6, 0},
		{"above the link", Limits{TimeoutAction: migrate.TimeoutCancel, AutoConverge: auto}, Freeze, 300 * ms, 20, 90},
		{"far above the link", Limits{AutoConverge: auto}, Freeze, 10 * time.Second, 30, 95},
		{"far above the link", Limits{AutoConverge: auto, TimeoutAction: migrate.TimeoutCancel}, Cancel, time.Minute, 30, 95},
		{"hot set", Limits{}, Freeze, 200 * ms, 4, 0},
		{"large hot set", Limits{}, Freeze, 1200 * ms, 8, 0},
		{"bursty", Limits{}, Freeze, 10 * time.Second, 10, 0},
		{"slow bursts", Limits{TimeoutAction: migrate.TimeoutSuspend, Timeout: 10 * time.Minute}, Freeze, 300 * ms, 30, 0},
		{"quick bursts", Limits{AutoConverge: auto}, Freeze, 300 * ms, 20, 90},
		{"calming", Limits{}, Freeze, 300 * ms, 8, 0},
		{"calming a lot later", Limits{TimeoutAction: migrate.TimeoutSuspend, Timeout: 10 * time.Minute}, Freeze, 300 * ms, 30, 0},
	} {
		out := over(curves[c.name]).travel(t, c.limits)
		most := out.throttles[len(out.throttles)-1]
		t.Logf("%-20s %d rounds in %v at up to %d%%: %v, %v expected, %v true (%s)", c.name, len(out.rounds),
			out.elapsed.Round(ms), most, out.end(), round(out.expected), round(out.downtime), out.why)
		if out.end() != c.end || out.downtime > c.downtime || len(out.rounds) > c.rounds || most > c.throttle {
			t.Errorf("%s, %+v: want %v within %v, %d rounds, %d%%", c.name, c.limits, c.end, c.downtime, c.rounds, c.throttle)
		}
	}
}

// TestPredictAgainstTruth compares the prediction after every round with what a
// freeze there would have found.
func TestPredictAgainstTruth(t *testing.T) {
	for name, factor := range map[string]float64{
		"idle": 1.1, "below the link": 2, "little below it": 1.2, "above the link": 1.3, "hot set": 2, "large hot set": 2.2, "calming": 4,
	} {
		w := over(curves[name])
		out := w.travel(t, Limits{TimeoutAction: migrate.TimeoutCancel, Downtime: time.Millisecond, MaxRounds: 8})
		var ran time.Duration
		for n, r := range out.rounds {
			from := ran
			ran += time.Duration(r.Duration)
			s := State{Rounds: out.rounds[:n+1], Pages: w.pages, Costs: w.costs}
			got, ok := Predict(s)
			if ok != (n > 0) {
				t.Errorf("%s: figures after %d rounds: %v", name, n+1, ok)
			}
			want := s.fixed() + time.Duration(min(w.dirty(from, ran), float64(w.pages))/w.speed*1e9)
			if off := float64(got) / float64(want); ok && (off > factor || off < 1/factor) {
				t.Errorf("%s, round %d: predicted %v, truth %v", name, n+1, round(got), round(want))
			}
		}
	}
}

// TestDecideOnNonsense: figures that cannot be do no harm.
func TestDecideOnNonsense(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	figures := []uint64{0, 0, 1, 7, 1000, 1 << 20, 1 << 40}
	for range 20000 {
		rounds := make([]migrate.Round, rng.IntN(6))
		for i := range rounds {
			pick := func() uint64 { return figures[rng.IntN(len(figures))] }
			rounds[i] = migrate.Round{
				Sent: pick(), Delta: pick(), Zero: pick(), Transferred: pick(),
				Duration: migrate.Millis(pick()), Throttle: rng.IntN(100),
			}
		}
		s := State{Rounds: rounds, Throttle: rng.IntN(100), Bandwidth: int64(rng.IntN(3)), Pages: figures[rng.IntN(6)]}
		l := Limits{MaxRounds: rng.IntN(8), AutoConverge: migrate.Throttle{Initial: 20, Step: 10, Max: 80}}
		d, throttle, why := Decide(s, l)
		if d == Cancel || d < Again || d > Cancel || throttle > 80 || why == "" {
			t.Fatalf("%+v: %v, %d, %q", s, d, throttle, why)
		}
		if p, ok := Predict(s); ok && p < 0 {
			t.Fatalf("%+v: predicted %v", s, p)
		}
	}
}

func TestDecideWithChangedSettings(t *testing.T) {
	page := func(sent uint64, d time.Duration) migrate.Round {
		return migrate.Round{Sent: sent, Transferred: sent * PageSize, Duration: migrate.Millis(d)}
	}
	s := State{Rounds: []migrate.Round{page(100000, 4*time.Second), page(50000, 2*time.Second)}, Throttle: 40}
	if _, throttle, _ := Decide(s, Limits{}); throttle != 0 {
		t.Errorf("auto-converge turned off: %d%%, want 0", throttle)
	}
	free, _ := Predict(s)
	s.Bandwidth = 10 << 20
	if capped, _ := Predict(s); capped < 5*free {
		t.Errorf("a tenth of the bandwidth: %v, without %v", capped, free)
	}
	if d, _, why := Decide(s, Limits{Downtime: time.Hour}); d != Again && !strings.Contains(why, "1h0m0s allowed") {
		t.Errorf("Decide = %v, %q", d, why)
	}
}

func TestDecisionNames(t *testing.T) {
	for d, want := range map[Decision]string{Again: "again", Freeze: "freeze", Throttle: "throttle", Cancel: "cancel", 0: "invalid"} {
		if got := d.String(); got != want {
			t.Errorf("Decision(%d) = %q, want %q", d, got, want)
		}
	}
}
