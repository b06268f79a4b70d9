package clock

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/quick"
	"time"

	"migrate"
)

const (
	ms   = time.Millisecond
	hour = time.Hour
)

func reading(mono, boot time.Duration) migrate.ClockReading {
	return migrate.ClockReading{Monotonic: mono, Boottime: boot}
}

func differ(mono, boot, bound time.Duration) Difference {
	return Difference{Bounds{mono, bound}, Bounds{boot, bound}}
}

func TestPlan(t *testing.T) {
	const c, p = migrate.ClockContinue, migrate.ClockPause
	// The source was booted ten hours before the target; boot is 1 s ahead on
	// both unless said otherwise.
	between := differ(-10*hour, -10*hour, ms)
	image, target := reading(12*hour, 12*hour+time.Second), reading(2*hour+300*ms, 2*hour+300*ms+time.Second)
	none := reading(0, 0)
	for _, k := range []struct {
		name string
		in   Restore
		want migrate.ClockReading // outage added
	}{
		{"continue", Restore{c, image, none, between, target, true}, reading(299*ms, 299*ms)},
		{"pause", Restore{p, image, none, between, target, true}, none},
		{"second hop", Restore{c, reading(112*hour, 112*hour+time.Second), reading(100*hour, 100*hour), between, target, true}, reading(299*ms, 299*ms)},
		{"not compared", Restore{c, image, none, Difference{unknown, unknown}, target, true}, none},
		{"bound above outage", Restore{c, image, none, differ(-10*hour, -10*hour, time.Second), target, true}, none},
		{"target seems to be before the dump", Restore{c, image, none, between, reading(hour, hour), true}, none},
		{"target suspended since", Restore{c, image, none, between, reading(2*hour+300*ms, 3*hour), true}, reading(299*ms, hour-time.Second-ms)},
		{"source suspended since", Restore{c, image, none, differ(-10*hour-5*time.Second, -10*hour, ms), target, true}, reading(299*ms, 299*ms)},
		{"no lead: taken from monotonic", Restore{c, reading(12*hour, 12*hour), none, between, reading(2*hour+300*ms, 2*hour+300*ms), true}, reading(299*ms-lead, 299*ms)},
		{"no lead and no outage", Restore{p, reading(12*hour, 12*hour), none, between, target, true}, reading(0, lead)},
		{"boottime behind", Restore{p, reading(12*hour, 11*hour), none, between, target, true}, reading(0, hour+lead)},
	} {
		got, err := Plan(k.in)
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		if got.Outage != k.want || got.Image != add(k.in.Image, k.want) {
			t.Errorf("%s: Plan adds %+v, writes %+v, want to add %+v", k.name, got.Outage, got.Image, k.want)
		}
		if got.Report.Offset != int64(got.Image.Monotonic-k.in.Target.Monotonic) || !got.Report.Namespace {
			t.Errorf("%s: report %+v", k.name, got.Report)
		}
	}
}

func TestPlanReport(t *testing.T) {
	in := Restore{
		Policy: migrate.ClockPause, Image: reading(hour, hour+time.Second),
		Between: differ(hour, hour, ms), Target: reading(2*hour+500*ms, 2*hour+500*ms+time.Second), Namespace: true,
	}
	got, err := Plan(in)
	want := migrate.Clock{Policy: migrate.ClockPause, Outage: migrate.Millis(499 * ms), Offset: int64(-hour - 500*ms), Bound: int64(ms), Namespace: true}
	if err != nil || got.Report != want {
		t.Errorf("pause: report %+v, %v, want %+v", got.Report, err, want)
	}
	in.Namespace = false
	got, err = Plan(in)
	want.Namespace, want.Offset = false, 0
	if err != nil || got.Report != want || got.Image != (migrate.ClockReading{}) {
		t.Errorf("no namespace: %+v, %v, want report %+v and nothing to write", got, err, want)
	}
}

func TestPlanRefuses(t *testing.T) {
	good := Restore{Policy: migrate.ClockContinue, Image: reading(hour, hour), Target: reading(hour, hour), Between: differ(0, 0, 0), Namespace: true}
	for name, change := range map[string]func(*Restore){
		"negative image":      func(r *Restore) { r.Image.Monotonic = -1 },
		"image too large":     func(r *Restore) { r.Image.Boottime = limit + 1 },
		"negative source":     func(r *Restore) { r.Tree.Monotonic = 2 * hour },
		"source overflows":    func(r *Restore) { r.Tree.Monotonic = math.MinInt64 },
		"negative target":     func(r *Restore) { r.Target.Boottime = -1 },
		"result out of range": func(r *Restore) { r.Image = reading(limit, limit) },
		"host's monotonic clock is behind": func(r *Restore) {
			r.Image, r.Target, r.Namespace = reading(hour, hour), reading(hour-1, 2*hour), false
		},
		"host's boottime clock is behind": func(r *Restore) {
			r.Image, r.Target, r.Namespace = reading(hour, hour), reading(2*hour, hour-1), false
		},
	} {
		r := good
		change(&r)
		if got, err := Plan(r); err == nil {
			t.Errorf("%s: Plan = %+v, want error", name, got)
		}
	}
	if _, err := Plan(good); err != nil {
		t.Errorf("Plan = %v, want nil", err)
	}
}

// host is a machine with clocks that started at some true time.
type host struct{ mono, boot time.Duration }

func (h host) at(now time.Duration) migrate.ClockReading {
	return reading(now+h.mono, now+h.boot)
}

// TestPlanHops sends a tree through many hosts of any uptime with any delays
// and wants its clocks never to step back, never to gain more than the truth,
// and BOOTTIME never below MONOTONIC, CRIU's gap between its readings included.
func TestPlanHops(t *testing.T) {
	hops := func(seed uint64) bool {
		r := rand.New(rand.NewPCG(seed, 2))
		random := func(limit time.Duration) time.Duration { return time.Duration(r.Int64N(int64(limit))) }
		newHost := func() host {
			up := random(1000 * hour)
			return host{up, up + random(2)*random(hour)}
		}
		now := hour
		from := newHost()
		offsets := reading(0, 0) // of the tree's namespace
		for range 8 {
			to := newHost()
			bound := random(5 * ms)
			wrong := random(2*bound+1) - bound
			d := differ(to.mono-from.mono+wrong, to.boot-from.boot+wrong, bound)
			image := add(from.at(now), offsets)
			image.Boottime += random(20 * time.Microsecond) // CRIU reads it second
			outage := random(3 * time.Second)
			now += outage
			policy := []migrate.ClockPolicy{migrate.ClockContinue, migrate.ClockPause}[r.IntN(2)]
			got, err := Plan(Restore{policy, image, offsets, d, to.at(now), true})
			if err != nil {
				t.Log(err)
				return false
			}
			if got.Image.Monotonic < image.Monotonic || got.Image.Boottime < image.Boottime {
				t.Logf("stepped back: %+v to %+v", image, got.Image)
				return false
			}
			if got.Outage.Monotonic > outage || got.Outage.Boottime > outage+lead {
				t.Logf("added %+v for %v", got.Outage, outage)
				return false
			}
			if policy == migrate.ClockContinue && got.Outage.Monotonic < outage-2*bound-lead {
				t.Logf("added only %+v for %v, bound %v", got.Outage, outage, bound)
				return false
			}
			gap := random(ms)
			a, b := to.at(now), to.at(now+gap)
			offsets = reading(got.Image.Monotonic-a.Monotonic, got.Image.Boottime-b.Boottime)
			now += gap
			if c := add(to.at(now), offsets); c.Boottime < c.Monotonic {
				t.Logf("BOOTTIME below MONOTONIC: %+v", c)
				return false
			}
			from = to
			now += random(hour)
		}
		return true
	}
	if err := quick.Check(hops, &quick.Config{MaxCount: 500}); err != nil {
		t.Error(err)
	}
}

func TestBackwardOnHost(t *testing.T) {
	none := reading(0, 0)
	for _, k := range []struct {
		name              string
		ownTime           bool
		tree              migrate.ClockReading
		between           Difference
		blockers, warning []string
	}{
		{"target up for longer", false, none, differ(hour, hour, ms), nil, []string{"clock-jump"}},
		{"target booted later", false, none, differ(-hour, -hour, ms), []string{"clock-backward", "clock-backward"}, nil},
		{"only boottime back", false, none, differ(hour, -hour, ms), []string{"clock-backward"}, nil},
		{"within the bound", false, none, differ(0, hour, 10*ms), []string{"clock-backward"}, nil},
		{"equal as far as can be told", false, none, differ(-ms/2, -ms/2, ms), nil, []string{"clock-jump"}},
		{"equal to the nanosecond", false, none, differ(ms, ms, ms), nil, []string{"clock-jump"}},
		{"not compared", false, none, Difference{unknown, unknown}, []string{"clock-backward", "clock-backward"}, nil},
		{"own namespace", true, none, differ(hour, hour, ms), []string{"no-time-namespaces"}, nil},
	} {
		blockers, warnings := BackwardOnHost(k.ownTime, k.tree, k.between)
		if got := codes(blockers); !slices.Equal(got, k.blockers) {
			t.Errorf("%s: blockers %q, want %q", k.name, got, k.blockers)
		}
		if got := codes(warnings); !slices.Equal(got, k.warning) {
			t.Errorf("%s: warnings %q, want %q", k.name, got, k.warning)
		}
	}
}

func codes(list []migrate.Finding) (out []string) {
	for _, f := range list {
		out = append(out, f.Code)
	}
	return out
}
