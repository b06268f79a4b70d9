package drain

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"migrate"
)

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := newWorld("A", "B", "C"), &diary{}
		for i, name := range []string{"e", "d", "c", "b", "a"} {
			w.hosts["A"].capsule(name, uint64(10*(i+1)))
		}
		r := w.run(t.Context(), t, openStore(t), request("B", "C"), d)
		if r.Status != Completed || r.Left() != 0 || r.Moved() != 5 || len(w.hosts["A"].workloads) != 0 {
			t.Errorf("%s, %d left, %v; A has %v", r.Status, r.Left(), states(r), w.hosts["A"].names())
		}
		if w.most != 2 {
			t.Errorf("%d moves at once, want 2", w.most)
		}
		if want := []string{"e", "d", "c", "b", "a"}; !slices.Equal(w.order, want) {
			t.Errorf("moved in the order %q, want the smallest first", w.order)
		}
		if a := w.hosts["A"].cordon; a == nil || a.Claimed("", time.Now()) {
			t.Errorf("A afterwards: %+v, want a cordon without a claim", a)
		}
		if n := len(w.hosts["B"].reserved) + len(w.hosts["C"].reserved); n != 0 {
			t.Errorf("%d reservations are left", n)
		}
		for _, s := range d.steps {
			if s.Running > 2 || s.Migration == "" {
				t.Errorf("step %+v", s)
			}
		}
		last := d.progress[len(d.progress)-1]
		if len(d.steps) != 10 || d.planned != 1 || last.Over != 5 || last.Done != last.Total {
			t.Errorf("%d steps, %d plans, at the end %+v", len(d.steps), d.planned, last)
		}
	})
}

// TestPlanIsWhatIsDone: a dry run changes nothing, and says what then happens.
func TestPlanIsWhatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B", "C")
		for _, name := range []string{"a", "b", "c", "d"} {
			w.hosts["A"].capsule(name, 10)
		}
		w.hosts["A"].capsule("other", 1, "app", "db")
		plan := request("B", "C")
		plan.Options.Selector = "app!=db"
		if err := Plan(t.Context(), w.config(&diary{}), &plan); err != nil {
			t.Fatal(err)
		}
		if w.hosts["A"].cordon != nil || len(w.order) != 0 || !slices.Equal(plan.Others, []string{"capsule:other"}) {
			t.Errorf("a plan did something, or left others out: %+v, %v, %v", w.hosts["A"].cordon, w.order, plan.Others)
		}
		again := request("B", "C")
		again.Options.Selector = "app!=db"
		r := w.run(t.Context(), t, openStore(t), again, &diary{})
		for i, it := range r.Items {
			if it.Target != plan.Items[i].Target || it.Why != plan.Items[i].Why || it.Attempts[0].Target != it.Target {
				t.Errorf("%s went to %s (%s), the plan says %s (%s)", it.Ref, it.Target, it.Why, plan.Items[i].Target, plan.Items[i].Why)
			}
		}
		if got := w.hosts["A"].names(); r.Status != Completed || !slices.Equal(got, []string{"other"}) {
			t.Errorf("%s; A has %v, want what was not selected", r.Status, got)
		}
	})
}

func TestRetryElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B", "C")
		w.hosts["A"].capsule("a", 10)
		w.misbehave = func(o Order) *mishap {
			if o.Target == "B" {
				return &mishap{status: migrate.StatusFailed}
			}
			return nil
		}
		d := &diary{}
		r := w.run(t.Context(), t, openStore(t), request("B", "C"), d)
		it := r.Items[0]
		if r.Status != Completed || it.Target != "C" || len(it.Attempts) != 2 || it.Attempts[0].Failure == nil || it.Failure != nil {
			t.Errorf("%s, %+v", r.Status, it)
		}
		if d.steps[1].Step != "retry" {
			t.Errorf("steps %+v", d.steps)
		}
	})
}

func TestTriesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B")
		w.hosts["A"].capsule("a", 10)
		w.hosts["A"].capsule("b", 20)
		w.misbehave = func(o Order) *mishap {
			if o.Ref == "capsule:a" {
				return &mishap{status: migrate.StatusFailed}
			}
			return nil
		}
		s := openStore(t)
		r := w.run(t.Context(), t, s, request("B"), &diary{})
		want := map[string]State{"a": StateFailed, "b": StateMoved}
		if !maps.Equal(states(r), want) || r.Status != Failed || len(r.Items[0].Attempts) != 3 || r.Items[0].Failure == nil {
			t.Errorf("%s, %v, want %v; %+v", r.Status, states(r), want, r.Items[0])
		}
		w.misbehave = nil
		if r = w.goOn(t, s, r.ID, &diary{}); r.Status != Completed || w.moves["capsule:b"] != 1 {
			t.Errorf("gone on with: %s, %v", r.Status, w.moves)
		}
	})
}

// TestRetryWaits: a target that still clears away a failed try takes no other one.
func TestRetryWaits(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  mishap
		down bool // the target, from then on
		want State
	}{
		{"it failed", mishap{status: migrate.StatusFailed, lingers: 20 * time.Second}, false, StateMoved},
		{"the connection broke", mishap{err: errors.New("connection lost"), lingers: 20 * time.Second}, false, StateMoved},
		{"for too long", mishap{status: migrate.StatusFailed, lingers: time.Hour}, false, StateFailed},
		{"the target is gone", mishap{status: migrate.StatusFailed, lingers: time.Hour}, true, StateFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld("A", "B")
				w.hosts["A"].capsule("a", 10)
				tries := 0
				w.misbehave = func(o Order) *mishap {
					if tries++; tries == 1 {
						w.hosts["B"].down = c.down
						return &c.bad
					}
					return nil
				}
				began := time.Now()
				r := w.run(t.Context(), t, openStore(t), request("B"), &diary{})
				if it := r.Items[0]; it.State != c.want || c.want == StateMoved && len(it.Attempts) != 2 {
					t.Errorf("%s after %d attempts, want %s", it.State, len(it.Attempts), c.want)
				}
				if took := time.Since(began); took > 4*time.Minute || c.down && took > time.Minute {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestHaltOnFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B")
		for _, n := range []string{"a", "b", "c", "d"} {
			w.hosts["A"].capsule(n, 10)
		}
		w.misbehave = func(o Order) *mishap { return &mishap{status: migrate.StatusFailed} }
		req := request("B")
		req.Options.OnFailure, req.Options.Retries, req.Options.MaxParallel = Halt, 0, 1
		r := w.run(t.Context(), t, openStore(t), req, &diary{})
		if r.Status != Failed || len(w.order) != 1 || r.Error == nil || r.Items[3].Failure == nil {
			t.Errorf("%s after %q, %+v, %+v", r.Status, w.order, r.Error, r.Items[3])
		}
	})
}

// TestUnknownEnd: when the connection to the source breaks, the journals are
// asked, and nothing is moved twice.
func TestUnknownEnd(t *testing.T) {
	for name, c := range map[string]struct {
		bad   mishap
		want  State
		moves int
		tries int
	}{
		"it moved":      {mishap{err: errors.New("connection lost"), arrives: true}, StateMoved, 1, 1},
		"it stayed":     {mishap{err: errors.New("connection lost")}, StateMoved, 1, 2},
		"nobody knows":  {mishap{err: errors.New("connection lost"), never: true}, StateInDoubt, 0, 1},
		"in doubt, ran": {mishap{status: migrate.StatusInDoubt, arrives: true}, StateMoved, 1, 1},
		"never began":   {mishap{err: &NotBegun{errors.New("no agent answers")}}, StateMoved, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld("A", "B")
				w.hosts["A"].capsule("a", 10)
				first := true
				w.misbehave = func(Order) *mishap {
					if !first {
						return nil
					}
					first = false
					return &c.bad
				}
				r := w.run(t.Context(), t, openStore(t), request("B"), &diary{})
				it := r.Items[0]
				if it.State != c.want || w.moves[it.Ref] != c.moves || len(it.Attempts) != c.tries {
					t.Errorf("%s after %d attempts and %d moves, want %s, %d, %d", it.State, len(it.Attempts), w.moves[it.Ref], c.want, c.tries, c.moves)
				}
				if c.want == StateInDoubt && (r.Status != InDoubt || it.Failure == nil) {
					t.Errorf("%s, %+v", r.Status, it.Failure)
				}
			})
		})
	}
}

func TestBlockedTouchesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B")
		w.hosts["A"].capsule("a", 10)
		w.hosts["A"].capsule("stuck", 10)
		w.hosts["A"].workloads[1].Blockers = []migrate.Finding{{Code: "io-uring", What: "uses io_uring", Advice: "stop it"}}
		r := w.run(t.Context(), t, openStore(t), request("B"), &diary{})
		if r.Status != Blocked || len(w.order) != 0 || w.hosts["A"].cordon != nil || len(w.hosts["B"].reserved) != 0 {
			t.Errorf("%s; moved %q, cordon %+v", r.Status, w.order, w.hosts["A"].cordon)
		}
		w.hosts["A"].cordon = &migrate.Cordon{By: "somebody"}
		if w.run(t.Context(), t, openStore(t), request("B"), &diary{}); w.hosts["A"].cordon == nil {
			t.Error("the cordon of somebody else was lifted")
		}
		if f := r.Items[1].Failure; f == nil || f.What != "uses io_uring" {
			t.Errorf("reason %+v", f)
		}
	})
}

func TestActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B")
		stuck := []migrate.Finding{{Code: "io-uring", What: "uses io_uring"}}
		w.hosts["A"].capsule("a", 10)
		w.hosts["A"].capsule("skipped", 1)
		w.hosts["A"].capsule("stopped", 1, LabelAction, "stop")
		w.hosts["A"].capsule("asked", 1, LabelAction, "live")
		w.hosts["A"].capsule("huge", 90000)
		for i := 1; i < 4; i++ {
			w.hosts["A"].workloads[i].Blockers = stuck
		}
		req := request("B")
		req.Options.Action, req.Options.Actions = Skip, map[string]Action{"asked": Stop}
		r := w.run(t.Context(), t, openStore(t), req, &diary{})
		want := map[string]State{"a": StateMoved, "skipped": StateSkipped, "stopped": StateStopped, "asked": StateStopped, "huge": StateSkipped}
		if !maps.Equal(states(r), want) || r.Status != Failed || r.Left() != 2 {
			t.Errorf("%s, %d left, %v, want %v", r.Status, r.Left(), states(r), want)
		}
		if got := w.hosts["A"].names(); !slices.Equal(got, []string{"huge", "skipped"}) {
			t.Errorf("A has %v", got)
		}
	})
}

// TestMoveLabels has workloads leave that need unlike settings of their moves,
// and come back.
func TestMoveLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B")
		w.hosts["A"].capsule("plain", 1)
		w.hosts["A"].capsule("clients", 1, LabelTCP, "established", LabelSync, "")
		w.hosts["A"].capsule("volume", 1, LabelSync, "/srv/db:/srv/wal")
		w.hosts["A"].capsule("firm", 1, LabelTCP, "refuse")
		w.hosts["A"].capsule("wrong", 1, LabelTCP, "keep")
		w.hosts["A"].capsule("relative", 1, LabelSync, "srv")
		connected := []migrate.Finding{{Code: "tcp-connected", What: "has connections"}}
		w.hosts["A"].workloads[1].Blockers, w.hosts["A"].workloads[3].Blockers = connected, connected
		req := request("B")
		req.Options.Action, req.Options.Move.TCP, req.Options.Move.Sync = Skip, migrate.TCPClose, []string{"/all"}
		s := openStore(t)
		r := w.run(t.Context(), t, s, req, &diary{})
		want := map[string]State{
			"plain": StateMoved, "clients": StateMoved, "volume": StateMoved, "firm": StateSkipped, "wrong": StateSkipped, "relative": StateSkipped,
		}
		if !maps.Equal(states(r), want) {
			t.Errorf("%v, want %v", states(r), want)
		}
		for name, why := range map[string]string{
			"firm": "has connections", "wrong": `its label tcp: "keep" is not one of`, "relative": `its label sync: "srv" is not an absolute path`,
		} {
			if it := r.Items[slices.IndexFunc(r.Items, func(it Item) bool { return it.Name == name })]; it.Failure == nil || !strings.Contains(it.Failure.What, why) {
				t.Errorf("%s stays because of %+v, want %s", name, it.Failure, why)
			}
		}
		check := func() {
			t.Helper()
			for ref, o := range map[string]migrate.Options{
				"capsule:plain":   {TCP: migrate.TCPClose, Sync: []string{"/all"}},
				"capsule:clients": {TCP: migrate.TCPEstablished},
				"capsule:volume":  {TCP: migrate.TCPClose, Sync: []string{"/srv/db", "/srv/wal"}},
			} {
				if got := w.asked[ref]; got.TCP != o.TCP || !slices.Equal(got.Sync, o.Sync) {
					t.Errorf("%s moved with tcp %s and sync %q, want %s and %q", ref, got.TCP, got.Sync, o.TCP, o.Sync)
				}
			}
		}
		check()
		clear(w.asked)
		w.hosts["A"].cordon = nil
		back, err := Undrain(*r, Host{Name: "A", Address: "A"}, r.Options)
		if err != nil {
			t.Fatal(err)
		}
		w.run(t.Context(), t, s, back, &diary{})
		check()
	})
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B", "C")
		for _, n := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			w.hosts["A"].capsule(n, 10)
		}
		req := request("B", "C")
		req.Options.MaxParallel, req.Options.MaxPerTarget, req.Options.Bandwidth = 6, 2, 1000
		req.Targets[1].Limits.Incoming = 1
		r := w.run(t.Context(), t, openStore(t), req, &diary{})
		if r.Status != Completed || w.most != 3 || w.mostPerTarget["B"] != 2 || w.mostPerTarget["C"] != 1 {
			t.Errorf("%s, at most %d at once, by target %v", r.Status, w.most, w.mostPerTarget)
		}
		if w.mostBandwidth > 1000 || w.mostBandwidth < 990 {
			t.Errorf("together they could send %d bytes a second, want 1000", w.mostBandwidth)
		}
	})
}

func TestOrders(t *testing.T) {
	for order, want := range map[string]string{Smallest: "vip mid big", Largest: "big mid vip", Priority: "mid big vip", ByName: "big mid vip"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld("A", "B")
			w.hosts["A"].capsule("mid", 20, LabelPriority, "9")
			w.hosts["A"].capsule("big", 30, LabelPriority, "5")
			w.hosts["A"].capsule("vip", 10, LabelPriority, "-1")
			req := request("B")
			req.Options.Order, req.Options.MaxParallel = order, 1
			w.run(t.Context(), t, openStore(t), req, &diary{})
			if got := w.order; len(got) != 3 || got[0]+" "+got[1]+" "+got[2] != want {
				t.Errorf("order %s: %v, want %s", order, got, want)
			}
		})
	}
}

func TestUndrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld("A", "B", "C"), openStore(t)
		for _, n := range []string{"a", "b", "c", "d"} {
			w.hosts["A"].capsule(n, 10, LabelTarget+"zone", "far", LabelGroup, "g"+n)
		}
		req := request("B", "C")
		for i := range req.Targets {
			req.Targets[i].Labels = map[string]string{"zone": "far"}
		}
		r := w.run(t.Context(), t, s, req, &diary{})
		back, err := Undrain(*r, Host{Name: "A", Address: "A"}, r.Options)
		if err != nil {
			t.Fatal(err)
		}
		ended := r.Items[0]
		host := w.hosts[ended.Target]
		host.workloads = slices.DeleteFunc(host.workloads, func(l migrate.Listed) bool { return l.Ref == ended.Ref })
		w.hosts["A"].cordon = nil
		if got := w.run(t.Context(), t, s, back, &diary{}); got.Status != Completed || !slices.Equal(w.hosts["A"].names(), []string{"b", "c", "d"}) {
			t.Errorf("%s, %v; A has %v", got.Status, states(got), w.hosts["A"].names())
		}
		again, err := s.Get(r.ID)
		if err != nil || again.count(StateReturned) != 4 {
			t.Errorf("the drain's record: %v, %v", states(&again), err)
		}
		if _, err := Undrain(again, Host{Name: "A", Address: "A"}, r.Options); err == nil {
			t.Error("a second undrain has something to bring back")
		}
	})
}

// TestArrivals: what comes to the host while it is drained leaves it too.
func TestArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("A", "B")
		w.hosts["A"].capsule("a", 10)
		time.AfterFunc(5*time.Second, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.hosts["A"].capsule("late", 10)
		})
		d := &diary{}
		if r := w.run(t.Context(), t, openStore(t), request("B"), d); r.Status != Completed || r.Moved() != 2 || d.planned != 2 {
			t.Errorf("%s, %v, %d plans", r.Status, states(r), d.planned)
		}
	})
}
