package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
)

// sendRound sends n batches of so many random pages over streams, and reports
// their digests.
func sendRound(ctx context.Context, s *Session, streams, n, pages int) ([]StreamDigest, error) {
	p, err := s.OpenPageStreams(ctx, streams)
	if err != nil {
		return nil, err
	}
	for i := range n {
		b := Batch{Round: 1, Seq: uint64(i)}
		b.Add(Piece{Kind: PieceData, Address: uint64(i) << 32, Pages: uint32(pages)}, make([]byte, pages*PageSize))
		b.Add(Piece{Kind: PieceZero, Image: 1, Address: uint64(i) << 32, Pages: 3}, nil)
		frame, err := EncodeBatch(nil, &b, CodecNone)
		if err == nil {
			err = p.Write(ctx, frame)
		}
		if err != nil {
			return nil, err
		}
	}
	return p.End(ctx)
}

// receiveRound reads streams in the order of Seq.
func receiveRound(ctx context.Context, s *Session, q *Sequencer, streams int, apply func(*Batch) error, delay func(i int) time.Duration) ([]StreamDigest, error) {
	g, ctx := errgroup.WithContext(ctx)
	got := make([]StreamDigest, streams)
	for i := range streams {
		st, err := s.AcceptStream(ctx)
		if err != nil {
			return nil, err
		}
		g.Go(func() (err error) {
			got[i], err = q.Read(ctx, st.(*PageReader), func(b *Batch) error {
				time.Sleep(delay(i))
				return apply(b)
			})
			return err
		})
	}
	return got, g.Wait()
}

func TestRoundOverSeveralStreams(t *testing.T) {
	for _, streams := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(streams), func(t *testing.T) {
			d, a := pair(t, nil)
			const n = 80
			g, ctx := errgroup.WithContext(within(t, 60*time.Second))
			var sent, got []StreamDigest
			g.Go(func() (err error) {
				sent, err = sendRound(ctx, d, streams, n, 64)
				return err
			})
			var q Sequencer
			var next uint64
			g.Go(func() (err error) {
				got, err = receiveRound(ctx, a, &q, streams, func(b *Batch) error {
					if b.Seq != next || b.Pages() != 67 {
						return fmt.Errorf("batch %d with %d pages is applied as number %d", b.Seq, b.Pages(), next)
					}
					next++
					return nil
				}, func(int) time.Duration { return time.Duration(rand.IntN(2000)) * time.Microsecond })
				return err
			})
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			var batches uint64
			for _, s := range sent {
				batches += s.Batches
				if !slices.Contains(got, s) {
					t.Errorf("no stream read as %+v, only %+v", s, got)
				}
			}
			if len(sent) != streams || batches != n || q.Done() != n {
				t.Errorf("%d streams, %d batches sent, %d applied", len(sent), batches, q.Done())
			}
		})
	}
}

// A target that is very slow to look at the stream with the batch that is due
// gets no more in front of it than its windows hold.
func TestOneStreamIsNotRead(t *testing.T) {
	d, a := pair(t, nil)
	const n = 150 // 37 MiB: more than the window of a connection
	g, ctx := errgroup.WithContext(within(t, 60*time.Second))
	g.Go(func() error {
		_, err := sendRound(ctx, d, 4, n, 64)
		return err
	})
	var q Sequencer
	g.Go(func() error {
		inner, ctx := errgroup.WithContext(ctx)
		for i := range 4 {
			st, err := a.AcceptStream(ctx)
			if err != nil {
				return err
			}
			inner.Go(func() error {
				if i == 0 {
					time.Sleep(time.Second)
				}
				_, err := q.Read(ctx, st.(*PageReader), func(*Batch) error { return nil })
				return err
			})
		}
		return inner.Wait()
	})
	if err := g.Wait(); err != nil || q.Done() != n {
		t.Errorf("%d batches, %v", q.Done(), err)
	}
}

func TestPageStreamsEndWithTheirContext(t *testing.T) {
	d, a := pair(t, func(d, _ *Config) { d.Bandwidth = 64 << 10 })
	outer := within(t, 10*time.Second)
	ctx, cancel := context.WithCancelCause(outer)
	gone := errors.New("the operator left")
	time.AfterFunc(200*time.Millisecond, func() { cancel(gone) })
	if _, err := sendRound(ctx, d, 3, 100, 64); !errors.Is(err, gone) {
		t.Errorf("sending = %v, want %v", err, gone)
	}
	for range 3 { // a stream that had written nothing may be lost as a whole
		short, stop := context.WithTimeout(outer, time.Second)
		if err := drain(short, a); err == nil {
			t.Error("a stream that was given up has an end")
		}
		stop()
	}
	if err := d.Context().Err(); err != nil {
		t.Errorf("the session ended: %v", err)
	}
}

func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := ahead{room: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		begin := func(size int) <-chan uint64 {
			got := make(chan uint64, 1)
			go func() {
				if n, err := a.begin(ctx, size); err == nil {
					got <- n
				}
			}()
			synctest.Wait()
			return got
		}
		for want := range uint64(4) {
			if n := <-begin(MaxAhead / 4); n != want {
				t.Errorf("frame %d, want %d", n, want)
			}
		}
		late := begin(1)
		a.end(2)
		a.end(1)
		synctest.Wait()
		if len(late) != 0 {
			t.Error("a frame begins although the oldest is not sent")
		}
		a.end(0)
		if n := <-late; n != 4 || a.bytes != MaxAhead/4+1 {
			t.Errorf("frame %d, %d bytes", n, a.bytes)
		}
		a.end(4)
		a.end(3)
		if n := <-begin(MaxAhead * 2); n != 5 { // alone it may always go
			t.Errorf("frame %d, want 5", n)
		}
		if stuck := begin(1); len(stuck) != 0 {
			t.Error("a frame begins behind one that is too big")
		}
		cancel()
	})
}

func TestSequencer(t *testing.T) {
	type step struct {
		do   string // take, leave, expect, reset, cancel
		seq  uint64
		want string // of what is applied so far
	}
	tests := map[string]struct {
		steps []step
		err   string // of some Take
	}{
		"in order":            {[]step{{"take", 0, "0"}, {"take", 1, "01"}}, ""},
		"out of order":        {[]step{{"take", 2, ""}, {"take", 1, ""}, {"take", 0, "012"}}, ""},
		"twice, later":        {[]step{{"take", 0, "0"}, {"take", 0, "0"}}, "batch 0 of round 1 came twice"},
		"twice, at once":      {[]step{{"take", 1, ""}, {"take", 1, ""}}, "batch 1 of round 1 came twice"},
		"gap":                 {[]step{{"take", 0, "0"}, {"take", 2, "0"}, {"leave", 0, "0"}, {"expect", 2, "0"}}, "batch 1 of round 1 is missing"},
		"gap, told before":    {[]step{{"expect", 2, ""}, {"take", 3, ""}, {"take", 2, ""}}, "batch 0 of round 1 is missing"},
		"gap, last leaves":    {[]step{{"expect", 2, ""}, {"take", 1, ""}, {"leave", 0, ""}}, "batch 0 of round 1 is missing"},
		"far ahead":           {[]step{{"expect", 1, ""}, {"take", 1<<64 - 1, ""}}, "batch 0 of round 1 is missing"},
		"may still come":      {[]step{{"expect", 3, ""}, {"take", 2, ""}, {"take", 1, ""}, {"take", 0, "012"}}, ""},
		"told, and all there": {[]step{{"expect", 2, ""}, {"take", 1, ""}, {"take", 0, "01"}}, ""},
		"next round":          {[]step{{"take", 0, "0"}, {"leave", 0, "0"}, {"expect", 1, "0"}, {"reset", 0, ""}, {"take", 0, "0"}, {"take", 1, "01"}}, ""},
		"another round":       {[]step{{"take", 0, "0"}, {"other", 1, "0"}}, "batch 1 of round 9 in round 1"},
		"apply fails":         {[]step{{"take", 1, ""}, {"fail", 0, ""}}, "store is full"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				var q Sequencer
				applied := ""
				errs := make(chan error, 9)
				take := func(round uint32, seq uint64, err error) {
					go func() {
						errs <- q.Take(ctx, &Batch{Round: round, Seq: seq}, func(b *Batch) error {
							if err == nil {
								applied += fmt.Sprint(b.Seq)
							}
							return err
						})
					}()
				}
				for _, s := range tt.steps {
					switch s.do {
					case "take":
						take(1, s.seq, nil)
					case "other":
						take(9, s.seq, nil)
					case "fail":
						take(1, s.seq, errors.New("store is full"))
					case "leave":
						q.Leave()
					case "expect":
						q.Expect(int(s.seq))
					case "reset":
						q.Reset()
						applied = ""
					}
					synctest.Wait()
					if applied != s.want || q.Done() != uint64(len(applied)) {
						t.Errorf("after %s %d: applied %q, %d done, want %q", s.do, s.seq, applied, q.Done(), s.want)
					}
				}
				cancel()
				synctest.Wait()
				close(errs)
				found := ""
				for err := range errs {
					if err != nil && !errors.Is(err, context.Canceled) {
						found = err.Error()
						if name != "apply fails" && !errors.Is(err, ErrProtocol) {
							t.Errorf("%v is no protocol error", err)
						}
					}
				}
				if want := tt.err; found != want && found != "protocol error: "+want {
					t.Errorf("Take = %q, want %q", found, want)
				}
			})
		})
	}
}

// Everybody who waits in a round that is lost learns of it.
func TestSequencerTellsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Sequencer
		errs := make(chan error, 4)
		for i := range uint64(3) {
			go func() { errs <- q.Take(t.Context(), &Batch{Seq: i + 1}, nil) }()
		}
		synctest.Wait()
		go func() {
			errs <- q.Take(t.Context(), &Batch{}, func(*Batch) error { return io.ErrShortWrite })
		}()
		for range 4 {
			if err := <-errs; err != io.ErrShortWrite {
				t.Errorf("Take = %v", err)
			}
		}
	})
}
