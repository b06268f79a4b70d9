package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"migrate/criu"
	"migrate/predump"
	"migrate/transport"
	"migrate/transport/pki"
)

// sessions returns two ends of one session.
func sessions(t testing.TB) (a, b *transport.Session) {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(pki.Init(dir, "test"), pki.Issue(dir, filepath.Join(dir, "a"), "a", nil, 0)); err != nil {
		t.Fatal(err)
	}
	id, err := pki.Load(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := transport.Listen("127.0.0.1:0", transport.Config{Identity: id, AllowPeer: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted := make(chan *transport.Session, 1)
	go func() {
		s, _ := l.Accept(t.Context())
		accepted <- s
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if a, err = transport.Dial(t.Context(), "127.0.0.1:"+port, "", transport.Config{Identity: id}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(transport.CodeNone, "") })
	if b = <-accepted; b == nil {
		t.Fatal("no session was accepted")
	}
	return a, b
}

// collect reads a whole page stream.
func collect(ctx context.Context, s *transport.Session) (pieces []transport.Piece, data []byte, err error) {
	st, err := s.AcceptStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, ok := st.(*transport.PageReader)
	if !ok {
		return nil, nil, fmt.Errorf("a %T", st)
	}
	var b transport.Batch
	for {
		err := r.Next(ctx, &b)
		if errors.Is(err, io.EOF) {
			return pieces, data, nil
		}
		if err != nil {
			return nil, nil, err
		}
		pieces = append(pieces, b.Pieces...)
		data = append(data, b.Data...)
	}
}

// TestFinalSink feeds the pages of a dump through table, workers and wire, and
// demands that they arrive in order, each as what it is.
func TestFinalSink(t *testing.T) {
	a, b := sessions(t)
	out, err := a.OpenPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := newSender(t.Context(), out, 1, transport.CodecS2)
	sink := &finalSink{sender: s, done: new(atomic.Uint64)}
	const pages = 1000
	var memory, want []byte
	for i := range pages {
		page := bytes.Repeat([]byte{byte(i % 3)}, pageSize) // every third is zero
		memory = append(memory, page...)
		if i%3 != 0 {
			want = append(want, page...)
		}
	}
	e := criu.Extent{Image: criu.PageImage{Type: criu.TaskImage, ID: 7}, Address: 0x10000, Pages: pages, Flags: criu.PagePresent}
	type arrival struct {
		pieces []transport.Piece
		data   []byte
		err    error
	}
	arrived := make(chan arrival, 1)
	go func() {
		var r arrival
		r.pieces, r.data, r.err = collect(t.Context(), b)
		arrived <- r
	}()
	if err := sink.Extent(e, bytes.NewReader(memory)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.finish(); err != nil {
		t.Fatal(err)
	}
	got := <-arrived
	if got.err != nil {
		t.Fatal(got.err)
	}
	if !bytes.Equal(got.data, want) {
		t.Errorf("%d bytes of content arrived, want %d in order", len(got.data), len(want))
	}
	next := e.Address
	for _, p := range got.pieces {
		if p.Address != next || p.Flags != uint8(criu.PagePresent) || p.Image != 7 {
			t.Fatalf("piece %+v, want one at %#x", p, next)
		}
		zero := (p.Address-e.Address)/pageSize%3 == 0
		if zero != (p.Kind == transport.PieceZero) {
			t.Fatalf("page at %#x is of kind %d, zero: %v", p.Address, p.Kind, zero)
		}
		next += uint64(p.Pages) * pageSize
	}
	if next != e.Address+pages*pageSize {
		t.Errorf("pages up to %#x arrived, want up to %#x", next, e.Address+pages*pageSize)
	}
	if r := s.stats.Round; r.Pages != pages || r.Zero != 334 || r.Sent != 666 {
		t.Errorf("counted %+v", r)
	}
}

// TestSenderStops ends all goroutines when one batch cannot be made.
func TestSenderStops(t *testing.T) {
	a, _ := sessions(t)
	out, err := a.OpenPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := newSender(t.Context(), out, 1, transport.CodecNone)
	broken := errors.New("broken")
	for range 100 {
		if err = s.send(func(*transport.Batch) error { return broken }); err != nil {
			break
		}
	}
	if _, err := s.finish(); !errors.Is(err, broken) {
		t.Errorf("finish() = %v, want the worker's error", err)
	}
}

// TestCollector cuts what a pass gives into batches of bounded size.
func TestCollector(t *testing.T) {
	a, b := sessions(t)
	out, err := a.OpenPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := newSender(t.Context(), out, 1, transport.CodecNone)
	c := &collector{sender: s}
	im := predump.Image{Type: 1, ID: 9}
	content := bytes.Repeat([]byte{1}, 3*batchBytes)
	err = errors.Join(
		c.Data(t.Context(), im, 0x1000, content),
		c.Zero(t.Context(), im, 0x1000+3*batchBytes, 5),
		c.flush(),
	)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	var pieces []transport.Piece
	var data []byte
	go func() {
		var err error
		pieces, data, err = collect(t.Context(), b)
		done <- err
	}()
	if _, err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var pagesSeen uint64
	for _, p := range pieces {
		pagesSeen += uint64(p.Pages)
	}
	if !bytes.Equal(data, content) || pagesSeen != 3*batchBytes/pageSize+5 {
		t.Errorf("%d bytes and %d pages arrived", len(data), pagesSeen)
	}
}
