package drain

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestCancelAndTimeout(t *testing.T) {
	for name, cause := range map[string]error{"cancel": ErrCancelled, "timeout": errTimeout} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld("A", "B"), openStore(t)
				for _, n := range []string{"a", "b", "c", "d"} {
					w.hosts["A"].capsule(n, 10)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				req := request("B")
				if name == "timeout" {
					req.Options.Timeout = 15 * time.Second
				} else {
					time.AfterFunc(15*time.Second, func() { cancel(cause) })
				}
				r := w.run(ctx, t, s, req, &diary{})
				if r.Status != Cancelled || r.Moved() != 2 || r.Left() != 2 || r.Error == nil || r.Error.What != cause.Error() || w.running != 0 {
					t.Fatalf("%s, %v, %+v", r.Status, states(r), r.Error)
				}
				r.Options.Timeout = 0
				if err := changed(s, r); err != nil {
					t.Fatal(err)
				}
				r = w.goOn(t, s, r.ID, &diary{})
				if r.Status != Completed || r.Error != nil {
					t.Errorf("gone on with: %s, %v, %+v", r.Status, states(r), r.Error)
				}
				for ref, n := range w.moves {
					if n != 1 {
						t.Errorf("%s has moved %d times", ref, n)
					}
				}
			})
		})
	}
}

// changed writes a record as it is in memory.
func changed(s *Store, r *Record) error {
	e, err := s.Take(r.ID)
	if err != nil {
		return err
	}
	defer e.Close()
	e.Record = *r
	return e.Save()
}

// TestResumeAfterCrash goes on from every record that a drain ever wrote, with
// the world as it was when the drain ended or was killed: every workload has
// moved once in the end, whatever the record knew.
func TestResumeAfterCrash(t *testing.T) {
	for crash := 1; crash <= 10; crash++ {
		synctest.Test(t, func(t *testing.T) {
			w, s := newWorld("A", "B", "C"), openStore(t)
			for _, n := range []string{"a", "b", "c", "d"} {
				w.hosts["A"].capsule(n, 10)
			}
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			req, d := request("B", "C"), &crashDiary{at: crash, kill: kill}
			d.look = func() { d.record, d.err = s.Get(req.ID) }
			e, err := s.Begin(req)
			if err != nil {
				t.Fatal(err)
			}
			cfg := w.config(&d.diary)
			cfg.Watch = d
			if _, err := Run(ctx, cfg, e); err != nil {
				t.Fatal(err)
			}
			e.Close()
			if d.err != nil || d.record.ID == "" {
				t.Fatalf("no record after step %d: %v", crash, d.err)
			}
			if err := changed(s, &d.record); err != nil { // as it was when the command died
				t.Fatal(err)
			}
			r := w.goOn(t, s, req.ID, &diary{})
			if r.Status != Completed || len(w.hosts["A"].workloads) != 0 {
				t.Errorf("crash at step %d: %s, %v", crash, r.Status, states(r))
			}
			for ref, n := range w.moves {
				if n != 1 {
					t.Errorf("crash at step %d: %s has moved %d times", crash, ref, n)
				}
			}
		})
	}
}

// crashDiary kills the drain at one of its steps, and keeps the record as it is
// on disk then.
type crashDiary struct {
	diary
	at     int
	kill   func()
	look   func()
	record Record
	err    error
}

func (c *crashDiary) Step(s Step) {
	c.diary.Step(s)
	if len(c.steps) == min(c.at, 8) {
		c.look()
		c.kill()
	}
}

func TestTwoDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld("A", "B"), openStore(t)
		w.hosts["A"].capsule("a", 100)
		first := make(chan *Record)
		go func() { first <- w.run(t.Context(), t, s, request("B"), &diary{}) }()
		time.Sleep(90 * time.Second) // longer than a claim holds that is not renewed
		e, err := s.Begin(request("B"))
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if r, err := Run(t.Context(), w.config(&diary{}), e); !isBusy(err) || r.Status != Blocked || r.Error == nil {
			t.Errorf("a second drain of A: %s, %v", r.Status, err)
		}
		if r := <-first; r.Status != Completed {
			t.Errorf("the first: %s, %v", r.Status, states(r))
		}
	})
}

// TestSameRoom: of two drains that want the same room one gets it, and the other
// says so.
func TestSameRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld("A", "B", "C"), openStore(t)
		w.hosts["C"].memory = 2000
		w.hosts["A"].capsule("a", 600)
		w.hosts["B"].capsule("b", 600)
		other := request("C")
		other.Host, other.Sources = "B", Hosts([]string{"B"})
		ends := make(chan *Record, 2)
		go func() { ends <- w.run(t.Context(), t, s, request("C"), &diary{}) }()
		time.Sleep(time.Second)
		go func() { ends <- w.run(t.Context(), t, s, other, &diary{}) }()
		got := map[Status]string{}
		for range 2 {
			r := <-ends
			got[r.Status] = r.Host
		}
		if got[Completed] != "A" || got[Blocked] != "B" || w.hosts["B"].cordon != nil {
			t.Errorf("%v, want the first to get the room and the second to be refused", got)
		}
	})
}
