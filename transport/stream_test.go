package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// transfer moves total bytes of memory over n page streams, each with an
// encoder of its own, and hands every batch to take (one stream at a time each).
func transfer(ctx context.Context, from, to *Session, n, total int, codec Codec, take func(*Batch)) (sent, got []StreamDigest, err error) {
	const pages = 64
	content := memory(4*pages, 11)
	work := make(chan uint64)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		for i := range uint64(total / pages / PageSize) {
			select {
			case work <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	sent, got = make([]StreamDigest, n), make([]StreamDigest, n)
	for i := range n {
		g.Go(func() error {
			w, err := from.OpenPages(ctx)
			if err != nil {
				return err
			}
			var frame []byte
			for j := range work {
				b := Batch{
					Round: 1, Seq: j, Data: content[j%4*pages*PageSize:][:pages*PageSize],
					Pieces: []Piece{{Kind: PieceData, Address: j * pages * PageSize, Pages: pages}},
				}
				if frame, err = EncodeBatch(frame[:0], &b, codec); err != nil {
					return err
				}
				if err := w.WriteEncoded(ctx, frame); err != nil {
					return err
				}
			}
			sent[i], err = w.End(ctx)
			return err
		})
		g.Go(func() error {
			s, err := to.AcceptStream(ctx)
			if err != nil {
				return err
			}
			r := s.(*PageReader)
			for b := (Batch{}); ; take(&b) {
				if err := r.Next(ctx, &b); err == io.EOF {
					got[i] = r.Digest()
					return nil
				} else if err != nil {
					return err
				}
			}
		})
	}
	return sent, got, g.Wait()
}

func TestPagesArriveIntact(t *testing.T) {
	d, a := pair(t, nil)
	const total = 64 << 20
	content := memory(256, 11)
	var mu sync.Mutex
	var stored [total / PageSize][]byte
	take := func(b *Batch) {
		mu.Lock()
		defer mu.Unlock()
		for i := range b.Pieces[0].Pages {
			stored[b.Pieces[0].Address/PageSize+uint64(i)] = bytes.Clone(b.Data[i*PageSize:][:PageSize])
		}
	}
	sent, got, err := transfer(within(t, 60*time.Second), d, a, 3, total, CodecS2, take)
	if err != nil {
		t.Fatal(err)
	}
	for i, page := range stored {
		if want := content[i%256*PageSize:][:PageSize]; !bytes.Equal(page, want) {
			t.Fatalf("page %d is not what was sent", i)
		}
	}
	var pages, size uint64
	for _, s := range sent {
		pages += s.Pages
		size += s.Bytes + headerLen + endLen
		if !contains(got, s) {
			t.Errorf("no stream read as %+v, only %+v", s, got)
		}
	}
	if pages != total/PageSize || d.BytesSent() != size || a.BytesReceived() != size {
		t.Errorf("%d pages, %d bytes of frames; session sent %d, received %d", pages, size, d.BytesSent(), a.BytesReceived())
	}
}

func contains(all []StreamDigest, one StreamDigest) bool {
	for _, d := range all {
		if d == one {
			return true
		}
	}
	return false
}

func TestBandwidth(t *testing.T) {
	const limit, total = 1 << 20, 1 << 20
	d, a := pair(t, func(d, _ *Config) { d.Bandwidth = limit })
	measure := func() time.Duration {
		start := time.Now()
		if _, _, err := transfer(within(t, 20*time.Second), d, a, 2, total, CodecNone, func(*Batch) {}); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	// A busy machine may be slow once or twice; too fast is wrong at once.
	near := func(got time.Duration, rate float64) {
		t.Helper()
		want := time.Duration(float64(total) / rate * float64(time.Second))
		for tries := 0; got > want*12/10 && tries < 2; tries++ {
			got = measure()
		}
		if got < want*8/10 || got > want*12/10 {
			t.Errorf("%d bytes took %v, want %v ± 20%%", total, got, want)
		}
	}
	near(measure(), limit)
	d.SetBandwidth(2 * limit)
	near(measure(), 2*limit)
	d.SetBandwidth(limit)
	near(measure(), limit)
	d.SetBandwidth(0)
	if got := min(measure(), measure(), measure()); got > 800*time.Millisecond { // with the cap 1 s
		t.Errorf("without a cap: %v", got)
	}
}

// A message overtakes pages that wait for a low cap.
func TestMessagesPassPages(t *testing.T) {
	d, a := pair(t, func(d, _ *Config) { d.Bandwidth = 100 << 10 })
	ctx, cancel := context.WithCancel(within(t, 10*time.Second))
	done := make(chan error, 1)
	go func() {
		_, _, err := transfer(ctx, d, a, 1, 16<<20, CodecNone, func(*Batch) {})
		done <- err
	}()
	start := time.Now()
	for i := range uint32(5) {
		if err := d.Send(ctx, ClockPing{Seq: i}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Receive(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got := time.Since(start); got > time.Second {
		t.Errorf("five messages took %v", got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("transfer = %v, want cancelled", err)
	}
}

func TestPagesMustRise(t *testing.T) {
	d, _ := pair(t, nil)
	ctx := within(t, 5*time.Second)
	w, err := d.OpenPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteEncoded(ctx, zeroBatch(t, 7)); err != nil {
		t.Errorf("batch 7: %v", err)
	}
	for _, seq := range []uint64{7, 3} {
		if err := w.WriteEncoded(ctx, zeroBatch(t, seq)); err == nil {
			t.Errorf("batch %d after 7: no error", seq)
		}
	}
	if err := w.WriteEncoded(ctx, []byte("no frame")); err == nil {
		t.Error("rubbish: no error")
	}
	if d, err := w.End(ctx); err != nil || d.Batches != 1 || d.Pages != 5 {
		t.Errorf("End = %+v, %v", d, err)
	}
	if err := w.WriteEncoded(ctx, zeroBatch(t, 9)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after End: %v", err)
	}
}

func zeroBatch(t testing.TB, seq uint64) []byte {
	t.Helper()
	f, err := EncodeBatch(nil, &Batch{Seq: seq, Pieces: []Piece{{Kind: PieceZero, Pages: 5}}}, CodecNone)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// drain reads a stream to its end or first error.
func drain(ctx context.Context, s *Session) error {
	stream, err := s.AcceptStream(ctx)
	if err != nil {
		return err
	}
	switch r := stream.(type) {
	case *PageReader:
		for b := (Batch{}); err == nil; {
			err = r.Next(ctx, &b)
		}
	case *FileReader:
		for err == nil {
			_, _, err = r.Next(ctx)
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// streamOf returns the bytes of a stream with these frames and a good end.
func streamOf(t testing.TB, frames ...[]byte) []byte {
	t.Helper()
	tl := newTally()
	var all []byte
	for _, f := range frames {
		tl.add(f)
		all = append(all, f...)
		switch FrameType(f[0]) {
		case FrameBatch:
			var b Batch
			tl.batches++
			if DecodeBatch(f, &b) == nil {
				tl.pages += b.Pages()
			}
		case FrameFileHeader:
			tl.batches++
		}
	}
	return append(all, tl.end()...)
}

func frameOf(typ FrameType, payload string) []byte {
	return append(header{typ, uint32(len(payload))}.appendTo(nil), payload...)
}

func TestHostileStreams(t *testing.T) {
	pages, files := frameOf(FramePagesStart, ""), frameOf(FrameFilesStart, "")
	file := func(name string, size int64, mode uint32) []byte { return FileHeader{name, size, mode}.appendTo(nil) }
	good := streamOf(t, pages, zeroBatch(t, 1))
	changed := bytes.Clone(good)
	changed[len(changed)-1]++
	tests := map[string]struct {
		raw  []byte
		want string // "" means a good stream
	}{
		"good pages":               {good, ""},
		"good files":               {streamOf(t, files, file("a", 2, 0o600), frameOf(FrameFileData, "x"), frameOf(FrameFileData, "y"), file("b", 0, 0)), ""},
		"nothing":                  {nil, "without an end frame"},
		"no end frame":             {pages, "without an end frame"},
		"no end frame after batch": {append(bytes.Clone(pages), zeroBatch(t, 1)...), "without an end frame"},
		"ends inside a frame":      {good[:len(good)-3], "inside a frame"},
		"digest":                   {changed, "digest"},
		"more after the end":       {append(bytes.Clone(good), zeroBatch(t, 2)...), "after its end frame"},
		"batch missing":            {append(append(bytes.Clone(pages), zeroBatch(t, 1)...), streamOf(t, pages, zeroBatch(t, 1), zeroBatch(t, 2))[len(pages)+2*len(zeroBatch(t, 1)):]...), "digest"},
		"order":                    {streamOf(t, pages, zeroBatch(t, 2), zeroBatch(t, 1)), "batch 1 after batch 2"},
		"same batch twice":         {streamOf(t, pages, zeroBatch(t, 2), zeroBatch(t, 2)), "batch 2 after batch 2"},
		"wrong start":              {streamOf(t, zeroBatch(t, 1)), "starts with Batch"},
		"control frame":            {streamOf(t, pages, frameOf(FrameCommit, "{}")), "Commit"},
		"file among pages":         {streamOf(t, pages, file("a", 0, 0)), "FileHeader"},
		"pages among files":        {streamOf(t, files, zeroBatch(t, 1)), "Batch between files"},
		"data without a file":      {streamOf(t, files, frameOf(FrameFileData, "x")), "FileData between files"},
		"too much data":            {streamOf(t, files, file("a", 1, 0), frameOf(FrameFileData, "xy")), "1 are left of the file"},
		"too little data":          {streamOf(t, files, file("a", 2, 0), frameOf(FrameFileData, "x")), "inside a file"},
		"next file too early":      {streamOf(t, files, file("a", 2, 0), file("b", 0, 0)), "FileHeader"},
		"same name twice":          {streamOf(t, files, file("a", 0, 0), file("a", 0, 0)), "twice"},
		"too big":                  {streamOf(t, files, file("a", 1001, 0)), "1000 are left"},
		"too big together":         {streamOf(t, files, file("a", 2, 0), frameOf(FrameFileData, "xy"), file("b", 999, 0)), "998 are left"},
		"negative size":            {streamOf(t, files, file("a", -1, 0)), "size -1"},
		"mode":                     {streamOf(t, files, file("a", 0, 0o10000)), "mode"},
		"parent":                   {streamOf(t, files, file("..", 0, 0)), "file name"},
		"dot":                      {streamOf(t, files, file(".", 0, 0)), "file name"},
		"slash":                    {streamOf(t, files, file("a/b", 0, 0)), "file name"},
		"zero byte":                {streamOf(t, files, file("a\x00", 0, 0)), "file name"},
		"no name":                  {streamOf(t, files, frameOf(FrameFileHeader, strings.Repeat("\x00", 12))), "FileHeader of 12 bytes"},
		"long name":                {streamOf(t, files, file(strings.Repeat("a", 256), 0, 0)), "FileHeader of 268 bytes"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d, a := pair(t, func(_, a *Config) { a.MaxFileBytes = 1000 })
			ctx := within(t, 5*time.Second)
			q, err := d.conn.OpenUniStream()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := q.Write(tt.raw); err != nil {
				t.Fatal(err)
			}
			q.Close()
			err = drain(ctx, a)
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("reading = %v, want a protocol error with %q", err, tt.want)
			}
			if d.Context().Err() != nil || a.Context().Err() != nil {
				t.Error("the session ended with the stream")
			}
		})
	}
}

// TestAbandonedStream gives a stream up without an end frame: the reader learns
// of it.
func TestAbandonedStream(t *testing.T) {
	d, a := pair(t, nil)
	ctx := within(t, 5*time.Second)
	w, err := d.OpenPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := w.WriteEncoded(gone, must(EncodeBatch(nil, mixedBatch(), CodecNone))); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteEncoded = %v, want %v", err, context.Canceled)
	}
	var b Batch
	if err := s.(*PageReader).Next(ctx, &b); !errors.Is(err, ErrCancelled) {
		t.Errorf("Next = %v, want %v", err, ErrCancelled)
	}
	if _, err := w.End(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("End = %v, want %v", err, context.Canceled)
	}
}

// A reader that has given up ends the writer's waiting.
func TestReaderGivesUp(t *testing.T) {
	d, a := pair(t, nil)
	ctx := within(t, 10*time.Second)
	reading := make(chan error, 1)
	go func() {
		s, err := a.AcceptStream(ctx)
		if err == nil {
			short, cancel := context.WithCancel(ctx)
			cancel()
			err = s.(*PageReader).Next(short, new(Batch))
		}
		reading <- err
	}()
	w, err := d.OpenPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-reading; !errors.Is(err, context.Canceled) {
		t.Fatalf("Next = %v", err)
	}
	for seq := uint64(0); err == nil; seq++ {
		err = w.WriteEncoded(ctx, zeroBatch(t, seq))
	}
	if !errors.Is(err, ErrCancelled) {
		t.Errorf("WriteEncoded = %v, want %v", err, ErrCancelled)
	}
}

// Every wait ends with its context, though the peer does nothing at all.
func TestWaitsHonourContext(t *testing.T) {
	d, _ := pair(t, func(_, a *Config) { a.MaxStreams = 1 })
	big := &Batch{Pieces: []Piece{{Kind: PieceData, Pages: 256}}, Data: make([]byte, MaxBatchData)}
	w, err := d.OpenPages(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(ctx context.Context) error{
		"Receive":      func(ctx context.Context) error { _, err := d.Receive(ctx); return err },
		"AcceptStream": func(ctx context.Context) error { _, err := d.AcceptStream(ctx); return err },
		"OpenPages":    func(ctx context.Context) error { _, err := d.OpenPages(ctx); return err },
		"Send": func(ctx context.Context) (err error) {
			for err == nil { // until the peer's window is full
				err = d.Send(ctx, Offer{ID: "0123456789abcdef", Init: big.Data})
			}
			return err
		},
		"WriteEncoded": func(ctx context.Context) (err error) {
			for err == nil {
				big.Seq++
				frame, _ := EncodeBatch(nil, big, CodecNone)
				err = w.WriteEncoded(ctx, frame)
			}
			return err
		},
	}
	for name, wait := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("long enough"))
			defer cancel()
			if err := wait(ctx); err == nil || !strings.Contains(err.Error(), "long enough") {
				t.Errorf("%s = %v", name, err)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	d, a := pair(t, nil)
	ctx := within(t, 20*time.Second)
	files := []struct {
		FileHeader
		content []byte
	}{
		{FileHeader{"core-1.img", 3 * MaxFileChunk, 0o600}, memory(192, 4)},
		{FileHeader{"empty", 0, 0o644}, nil},
		{FileHeader{"skipped", 5000, 0o600}, make([]byte, 5000)},
		{FileHeader{"timens-0.img", 1, 0o4755}, []byte{7}},
	}
	sent := make(chan StreamDigest, 1)
	go func() {
		w, err := d.OpenFiles(ctx)
		for _, f := range files {
			if err == nil {
				err = w.Add(ctx, f.Name, f.Size, f.Mode, bytes.NewReader(f.content))
			}
		}
		if err != nil {
			t.Error(err)
		}
		digest, err := w.End(ctx)
		if err != nil {
			t.Error(err)
		}
		sent <- digest
	}()
	s, err := a.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := s.(*FileReader)
	for _, want := range files {
		h, content, err := r.Next(ctx)
		if err != nil || h != want.FileHeader {
			t.Fatalf("Next = %+v, %v, want %+v", h, err, want.FileHeader)
		}
		if h.Name == "skipped" {
			continue
		}
		if got, err := io.ReadAll(content); err != nil || !bytes.Equal(got, want.content) {
			t.Errorf("%s: %d bytes, %v", h.Name, len(got), err)
		}
	}
	if _, _, err := r.Next(ctx); err != io.EOF {
		t.Errorf("Next = %v, want EOF", err)
	}
	if want := <-sent; r.Digest() != want || want.Batches != 4 {
		t.Errorf("digest %+v, sent %+v", r.Digest(), want)
	}
}

func TestFileShorterThanAnnounced(t *testing.T) {
	d, a := pair(t, nil)
	ctx := within(t, 5*time.Second)
	w, err := d.OpenFiles(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(ctx, "../etc", 1, 0, nil); err == nil {
		t.Error("bad name: no error")
	}
	if err := w.Add(ctx, "short", 9, 0o600, strings.NewReader("four")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Add = %v", err)
	}
	if err := drain(ctx, a); !errors.Is(err, ErrCancelled) {
		t.Errorf("reading = %v, want %v", err, ErrCancelled)
	}
}

func BenchmarkLoopback(b *testing.B) {
	for _, codec := range allCodecs {
		for _, streams := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/streams=%d", codec, streams), func(b *testing.B) {
				d, a := pair(b, nil)
				const total = 64 << 20
				b.SetBytes(total)
				for b.Loop() {
					if _, _, err := transfer(b.Context(), d, a, streams, total, codec, func(*Batch) {}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
