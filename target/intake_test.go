package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/journal"
	"migrate/target/pagestore"
	"migrate/transport"
	"migrate/transport/pki"
)

// identities issues certificates of one authority.
func identities(t *testing.T, names ...string) map[string]pki.Identity {
	t.Helper()
	ca, out := t.TempDir(), map[string]pki.Identity{}
	if err := pki.Init(ca, "test-ca"); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		dir := t.TempDir()
		if err := pki.Issue(ca, dir, name, []string{"127.0.0.1"}, time.Hour); err != nil {
			t.Fatal(err)
		}
		id, err := pki.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = id
	}
	return out
}

// A bench is an agent's receiving half: a receiver that is prepared, its store,
// and sessions from a source that the test plays.
type bench struct {
	t        *testing.T
	r        *receiver
	ids      map[string]pki.Identity
	listener *transport.Listener
	outcome  chan error // of the receiver
}

const benchIdle = 700 * time.Millisecond

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, ids: identities(t, "source", "target", "other"), outcome: make(chan error, 1)}
	j, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{
		cfg: Config{Allow: func(string) bool { return true }, Identity: b.ids["target"], IdleTimeout: benchIdle},
		log: slog.New(slog.DiscardHandler), journal: j, live: map[migrate.ID]*receiver{}, costs: newCosts(),
	}
	b.r = a.newReceiver(migrate.NewID(), transport.Offer{Options: migrate.Options{}.WithDefaults()})
	if b.r.store, err = pagestore.New(t.TempDir(), 64<<20, false, nil); err != nil {
		t.Fatal(err)
	}
	b.listener, err = transport.Listen("127.0.0.1:0", a.sessions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.listener.Close()
		a.work.Wait()
		b.r.store.Close()
	})
	return b
}

// start lets the receiver take what comes on the first session, and the agent
// serve those behind it. address is where the source dials.
func (b *bench) start(address string) *transport.Session {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(cancel)
	first := b.dial("source", address)
	s, err := b.listener.Accept(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.r.begin(s); err != nil {
		b.t.Fatal(err)
	}
	b.r.register()
	b.r.work.Go(func() {
		_, err := b.r.takeUntilVote(ctx, s)
		b.r.link.end(err)
		b.outcome <- err
	})
	b.r.work.Go(func() {
		for {
			s, err := b.listener.Accept(ctx)
			if err != nil {
				return
			}
			b.r.work.Go(func() { b.r.serve(ctx, s) })
		}
	})
	b.t.Cleanup(func() { b.r.entry.Close() })
	return first
}

func (b *bench) dial(name, address string) *transport.Session {
	b.t.Helper()
	s, err := transport.Dial(b.t.Context(), address, "target", transport.Config{Identity: b.ids[name], IdleTimeout: benchIdle})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { s.Close(transport.CodeNone, "") })
	return s
}

func (b *bench) address() string { return b.listener.Addr().String() }

// end has the source roll back, and returns what became of the receiver.
func (b *bench) end(s *transport.Session) error {
	b.t.Helper()
	if err := s.Send(b.t.Context(), transport.Abort{Status: migrate.StatusCancelled, Failure: migrate.Failure{What: "that was all"}}); err != nil {
		b.t.Fatal(err)
	}
	return b.wait()
}

func (b *bench) wait() error {
	b.t.Helper()
	select {
	case err := <-b.outcome:
		return err
	case <-time.After(10 * time.Second):
		b.t.Fatal("the receiver does not end")
		return nil
	}
}

func isAborted(err error) bool { return errors.As(err, new(*aborted)) }

// A round under way on the source.
type sentRound struct {
	t       *testing.T
	s       *transport.Session
	round   int
	writers []*transport.PageWriter
	seq     uint64
}

func openRound(t *testing.T, s *transport.Session, round, streams int) *sentRound {
	t.Helper()
	out := &sentRound{t: t, s: s, round: round}
	for range streams {
		w, err := s.OpenPages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out.writers = append(out.writers, w)
	}
	return out
}

// frame encodes one page of task 7.
func frame(t *testing.T, round int, seq, address uint64, version byte) []byte {
	t.Helper()
	b := transport.Batch{Round: uint32(round), Seq: seq}
	b.Add(transport.Piece{Kind: transport.PieceData, ImageType: uint8(criu.TaskImage), Image: 7, Address: address, Pages: 1},
		bytes.Repeat([]byte{version}, transport.PageSize))
	f, err := transport.EncodeBatch(nil, &b, transport.CodecS2)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// page sends one on the stream that is given.
func (r *sentRound) page(stream int, address uint64, version byte) {
	r.t.Helper()
	if err := r.writers[stream].WriteEncoded(r.t.Context(), frame(r.t, r.round, r.seq, address, version)); err != nil {
		r.t.Fatal(err)
	}
	r.seq++
}

func (r *sentRound) digests() []transport.StreamDigest {
	r.t.Helper()
	var out []transport.StreamDigest
	for _, w := range r.writers {
		d, err := w.End(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		out = append([]transport.StreamDigest{d}, out...) // any order will do
	}
	return out
}

// end closes the round and waits for the target's word.
func (r *sentRound) end() transport.RoundAck {
	r.t.Helper()
	ack, err := transport.Call[transport.RoundAck](r.t.Context(), r.s, transport.RoundEnd{Round: r.round, Streams: r.digests()})
	if err != nil {
		r.t.Fatal(err)
	}
	return ack
}

// stored tells each page that the store has by the byte that it is full of.
func (b *bench) stored(addresses ...uint64) string {
	b.t.Helper()
	var out []string
	for _, a := range addresses {
		for v := range 256 {
			sum := transport.PageSum(bytes.Repeat([]byte{byte(v)}, transport.PageSize))
			if b.holds(a, sum) {
				out = append(out, fmt.Sprintf("%#x=%d", a, v))
				break
			}
		}
	}
	return strings.Join(out, " ")
}

// holds compares a page as a final list and --verify do.
func (b *bench) holds(address uint64, sum [16]byte) bool {
	b.t.Helper()
	p := transport.Piece{Kind: transport.PieceHave, ImageType: uint8(criu.TaskImage), Image: 7, Address: address, Pages: 1, Flags: uint8(criu.PagePresent)}
	list := transport.Batch{}
	list.Add(p, nil)
	if _, err := b.r.store.Unlist(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.r.store.Apply(&list); err != nil {
		return false
	}
	p.Kind, p.Flags = transport.PieceSum, 0
	check := transport.Batch{}
	check.Add(p, sum[:])
	return b.r.store.Apply(&check) == nil
}

// TestStreams sends rounds over one to four streams, the same page several
// times: the last one by Seq must stay, whichever stream was faster.
func TestStreams(t *testing.T) {
	for streams := 1; streams <= migrate.MaxStreams; streams++ {
		t.Run(fmt.Sprint(streams), func(t *testing.T) {
			b := newBench(t)
			s := b.start(b.address())
			for round := 1; round <= 3; round++ {
				r := openRound(t, s, round, streams)
				for i := range 200 {
					r.page(i*7%streams, uint64(1+i%4)<<12, byte(round*50+i/4))
				}
				if ack := r.end(); ack.Round != round {
					t.Fatalf("RoundAck = %+v, want round %d", ack, round)
				}
			}
			if err := b.end(s); !isAborted(err) {
				t.Fatal(err)
			}
			if got, want := b.stored(0x1000, 0x2000, 0x3000, 0x4000), "0x1000=199 0x2000=199 0x3000=199 0x4000=199"; !reflect.DeepEqual(got, want) {
				t.Errorf("stored %s, want %s", got, want)
			}
		})
	}
}

// TestEmptyStreams ends rounds in which streams, or all, had nothing to send.
func TestEmptyStreams(t *testing.T) {
	b := newBench(t)
	s := b.start(b.address())
	openRound(t, s, 1, 4).end()
	r := openRound(t, s, 2, 4)
	r.page(3, 0x1000, 9)
	r.end()
	if err := b.end(s); !isAborted(err) {
		t.Fatal(err)
	}
	if got := b.stored(0x1000); got != "0x1000=9" {
		t.Errorf("stored %s", got)
	}
}

func TestIntakeRefuses(t *testing.T) {
	tests := []struct {
		name string
		send func(t *testing.T, s *transport.Session)
		want string
	}{
		{"a wrong digest", func(t *testing.T, s *transport.Session) {
			r := openRound(t, s, 1, 2)
			r.page(0, 0x1000, 1)
			d := r.digests()
			d[1].Bytes++
			s.Send(t.Context(), transport.RoundEnd{Round: 1, Streams: d})
		}, "round 1 arrived as"},
		{"a stream too many", func(t *testing.T, s *transport.Session) {
			r := openRound(t, s, 1, 2)
			r.page(0, 0x1000, 1)
			r.page(1, 0x2000, 1)
			s.Send(t.Context(), transport.RoundEnd{Round: 1, Streams: r.digests()[1:]})
		}, "round 1"},
		{"too many streams", func(t *testing.T, s *transport.Session) {
			s.Send(t.Context(), transport.RoundEnd{Round: 1, Streams: make([]transport.StreamDigest, 5)})
		}, "on 5 streams"},
		{"another round", func(t *testing.T, s *transport.Session) { openRound(t, s, 3, 1).page(0, 0x1000, 1) }, "pages of round 3 in round 1"},
		{"the end of another round", func(t *testing.T, s *transport.Session) {
			s.Send(t.Context(), transport.RoundEnd{Round: 2})
		}, "the end of round 2 in round 1"},
		{"a batch that is missing", func(t *testing.T, s *transport.Session) {
			r := openRound(t, s, 1, 1)
			r.seq = 1
			r.page(0, 0x1000, 1)
			s.Send(t.Context(), transport.RoundEnd{Round: 1, Streams: make([]transport.StreamDigest, 1)})
			s.Send(t.Context(), transport.RoundEnd{Round: 1, Streams: []transport.StreamDigest{{Batches: 1}}})
		}, "round"},
		{"the word to restore before the final round", func(t *testing.T, s *transport.Session) {
			openRound(t, s, 1, 1).end()
			s.Send(t.Context(), transport.Restore{})
		}, "before the final round ended"},
		{"more than was reserved", func(t *testing.T, s *transport.Session) {
			b := transport.Batch{Round: 1, Pieces: []transport.Piece{{Kind: transport.PieceZero, ImageType: 1, Image: 7, Pages: 1 << 20}}}
			f, err := transport.EncodeBatch(nil, &b, transport.CodecNone)
			if err != nil {
				t.Fatal(err)
			}
			openRound(t, s, 1, 1).writers[0].WriteEncoded(t.Context(), f)
		}, "more pages than were reserved"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			s := b.start(b.address())
			tt.send(t, s)
			if err := b.wait(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the receiver ended with %v, want %q", err, tt.want)
			}
		})
	}
}

// relay forwards datagrams to a listener until it is cut.
type relay struct {
	conn *net.UDPConn
	mu   sync.Mutex
	cut  bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	server, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{conn: conn}
	t.Cleanup(func() { conn.Close() })
	go func() {
		var client *net.UDPAddr
		buf := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFromUDP(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			cut := r.cut
			r.mu.Unlock()
			if cut {
				continue
			}
			dest := server
			if from.Port == server.Port {
				dest = client
			} else {
				client = from
			}
			_, _ = conn.WriteToUDP(buf[:n], dest)
		}
	}()
	return r
}

func (r *relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = true
}

// TestResume cuts the link inside a round. The source dials again, learns what
// is stored, and goes on.
func TestResume(t *testing.T) {
	for _, noticed := range []bool{true, false} {
		t.Run(fmt.Sprintf("noticed %v", noticed), func(t *testing.T) {
			b := newBench(t)
			link := newRelay(t, b.address())
			s := b.start(link.conn.LocalAddr().String())
			r := openRound(t, s, 1, 2)
			for i := range uint64(8) {
				r.page(int(i%2), (1+i)<<12, 1)
			}
			r.end()
			r = openRound(t, s, 2, 2)
			r.page(0, 0x1000, 2)
			r.page(1, 0x2000, 2)
			r.seq++
			r.page(0, 0x4000, 2) // stands behind one that never comes
			b.awaitBatches(2)
			link.stop()
			if noticed {
				time.Sleep(2 * benchIdle)
			}
			s = b.dial("source", b.address())
			got, err := transport.Call[transport.Resumed](t.Context(), s, transport.Resume{ID: b.r.id})
			if want := (transport.Resumed{Round: 1, Seq: 2}); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("Resumed = %+v, %v; want %+v", got, err, want)
			}
			r = openRound(t, s, 2, 3)
			r.page(2, 0x3000, 3)
			r.page(1, 0x4000, 3)
			r.end()
			if err := b.end(s); !isAborted(err) {
				t.Fatal(err)
			}
			if got, want := b.stored(0x1000, 0x2000, 0x3000, 0x4000, 0x5000), "0x1000=2 0x2000=2 0x3000=3 0x4000=3 0x5000=1"; got != want {
				t.Errorf("stored %s, want %s", got, want)
			}
		})
	}
}

// awaitBatches waits until so many of the round are stored.
func (b *bench) awaitBatches(n uint64) {
	b.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		b.r.rounds.mu.Lock()
		done := b.r.rounds.order.Done()
		b.r.rounds.mu.Unlock()
		if done == n {
			return
		}
	}
	b.t.Fatalf("there are never %d batches", n)
}

// TestResumeIsForTheSame refuses what is not the source's to take up.
func TestResumeIsForTheSame(t *testing.T) {
	b := newBench(t)
	first := b.start(b.address())
	refused := func(name string, id migrate.ID, want string) {
		t.Helper()
		s := b.dial(name, b.address())
		_, err := transport.Call[transport.Resumed](t.Context(), s, transport.Resume{ID: id})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Resume of %s by %s = %v, want %q", id, name, err, want)
		}
	}
	refused("other", b.r.id, "has no say in it")
	refused("source", migrate.NewID(), "not under way")
	openRound(t, first, 1, 1).end() // untouched by all that
	b.r.link.settle()
	refused("source", b.r.id, "was being restored")
	if err := b.end(first); !isAborted(err) {
		t.Fatal(err)
	}
}

// TestBrokenLinkEnds lists what ends the wait for a source that is gone.
func TestBrokenLinkEnds(t *testing.T) {
	tests := map[string]func(b *bench) error{
		"abort on another session": func(b *bench) error {
			s := b.dial("source", b.address())
			if _, err := transport.Call[transport.Resumed](b.t.Context(), s, transport.Resume{ID: b.r.id}); err != nil {
				b.t.Fatal(err)
			}
			return b.end(s)
		},
		"verdict": func(b *bench) error {
			s := b.dial("source", b.address())
			if err := s.Send(b.t.Context(), transport.Verdict{ID: b.r.id}); err != nil {
				b.t.Fatal(err)
			}
			err := b.wait()
			close(b.r.over)
			return err
		},
		"a new offer": func(b *bench) error {
			close(b.r.over)
			for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if b.r.replace("other", "load"); len(b.outcome) > 0 {
					b.t.Fatal("another host's offer ended it")
				}
			}
			b.r.replace("source", "load")
			return b.wait()
		},
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.r.offer.Workload = migrate.Workload{Kind: "capsule", Name: "load"}
			link := newRelay(t, b.address())
			b.start(link.conn.LocalAddr().String())
			link.stop()
			time.Sleep(2 * benchIdle)
			if err := end(b); err == nil || transport.Broken(err) {
				t.Errorf("the receiver ended with %v", err)
			}
		})
	}
}

// TestLostSourceHasLimitedTime bounds the wait by the move's own time-out.
func TestLostSourceHasLimitedTime(t *testing.T) {
	b := newBench(t)
	link := newRelay(t, b.address())
	b.start(link.conn.LocalAddr().String())
	link.stop()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errStalled)
	defer cancel()
	if _, err := b.r.missSource(ctx, errors.New("cut")); !errors.Is(err, errStalled) {
		t.Errorf("missSource() = %v, want errStalled", err)
	}
	b.r.link.replaced <- struct{}{}
	if err := b.wait(); err == nil {
		t.Error("the receiver ended without an error")
	}
}

// TestStoreErrorsSayWhatToDo looks at what the source is told.
func TestStoreErrorsSayWhatToDo(t *testing.T) {
	differs := &pagestore.DiffersError{Image: criu.PageImage{Type: criu.TaskImage, ID: 7}, Address: 0x5000}
	for want, err := range map[string]error{
		"page 0x5000 of process 7 (memory image 7) differs from the frozen source": fmt.Errorf("image 1/7: %w", differs),
		"the workload has grown too much since preflight":                          fmt.Errorf("image 1/7: %w", pagestore.ErrFull),
	} {
		f, own := migrate.FailureOf(errors.Join(fmt.Errorf("round 3: %w", &storeError{err})))
		if !own || f.What != want || f.Advice == "" {
			t.Errorf("FailureOf() = %+v, want %q and advice", f, want)
		}
	}
}
