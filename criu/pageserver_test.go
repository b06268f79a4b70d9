package criu

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// listSink records what it is told.
type listSink struct {
	images  []PageImage
	extents []Extent
	data    bytes.Buffer
	parent  bool
	skip    bool // leave the data of extents unread
	closed  bool
	err     error
}

func (s *listSink) Open(img PageImage) (bool, error) {
	s.images = append(s.images, img)
	return s.parent, nil
}

func (s *listSink) Extent(e Extent, r io.Reader) error {
	s.extents = append(s.extents, e)
	if s.skip {
		return nil
	}
	_, err := io.Copy(&s.data, r)
	return err
}

func (s *listSink) Close() error {
	s.closed = true
	return s.err
}

// serve runs ServePages against client and returns both errors.
func serve(t *testing.T, v Version, sink PageSink, client func(*PageClient, net.Conn) error) (serverErr, clientErr error) {
	t.Helper()
	ours, theirs, err := PageSocket()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- ServePages(t.Context(), ours, v, sink) }()
	defer conn.Close()
	clientErr = client(NewPageClient(conn, v), conn)
	conn.(*net.UnixConn).CloseWrite()
	return <-done, clientErr
}

func TestServePages(t *testing.T) {
	task, shmem := PageImage{TaskImage, 42}, PageImage{ShmemImage, 1 << 40}
	large := bytes.Repeat([]byte("0123456789abcdef"), 256*PageSize/16)
	extents := []Extent{
		{task, 0x400000, 1, PagePresent},
		{task, 0x500000, 1 << 20, PageParent},
		{shmem, 0, 256, PagePresent | PageLazy},
	}
	for _, v := range []Version{31700, 40100, 40200, 40201} {
		sink := &listSink{parent: true}
		serverErr, clientErr := serve(t, v, sink, func(c *PageClient, _ net.Conn) error {
			if parent, err := c.Parent(task); err != nil || !parent {
				t.Errorf("%v: Parent = %v, %v, want true", v, parent, err)
			}
			for _, img := range []PageImage{task, shmem} {
				if parent, err := c.Open(img); err != nil || !parent {
					t.Errorf("%v: Open = %v, %v, want true", v, parent, err)
				}
			}
			return errors.Join(c.Extent(extents[0], large[:PageSize]), c.Extent(extents[1], nil), c.Extent(extents[2], large), c.Close())
		})
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%v: ServePages = %v, client = %v", v, serverErr, clientErr)
		}
		if len(sink.images) != 2 || len(sink.extents) != 3 || sink.extents[0] != extents[0] || sink.extents[1] != extents[1] || sink.extents[2] != extents[2] {
			t.Errorf("%v: extents = %v, want %v", v, sink.extents, extents)
		}
		if !bytes.Equal(sink.data.Bytes(), append(large[:PageSize:PageSize], large...)) || !sink.closed {
			t.Errorf("%v: data differ, or the sink was not closed", v)
		}
	}
}

func TestServePagesRefuses(t *testing.T) {
	img := PageImage{TaskImage, 1}
	open, parent := message{cmd: cmdOpen, image: img}, message{cmd: cmdParent, image: img}
	for name, test := range map[string]struct {
		messages []message
		sink     listSink
		want     string
	}{
		"unknown command": {[]message{{cmd: 7}}, listSink{}, "unknown command"},
		"pages unopened":  {[]message{{cmd: cmdAdd, pages: 1, image: img}}, listSink{}, "before it was opened"},
		"opened twice":    {[]message{open, open}, listSink{}, "twice"},
		"asked twice":     {[]message{parent, parent}, listSink{}, "twice"},
		"asked late":      {[]message{open, parent}, listSink{}, "twice"},
		"only asked for":  {[]message{parent, {cmd: cmdAdd, pages: 1, image: img}}, listSink{}, "before it was opened"},
		"image type":      {[]message{{cmd: cmdOpen, image: PageImage{3, 1}}}, listSink{}, "unknown type"},
		"no pages":        {[]message{open, {cmd: cmdAdd, image: img}}, listSink{}, "out of range"},
		"too many pages":  {[]message{open, {cmd: cmdAdd, image: img, pages: 1 << 60}}, listSink{}, "out of range"},
		"past the end":    {[]message{open, {cmd: cmdAdd, image: img, pages: 2, address: maxAddress - PageSize}}, listSink{}, "out of range"},
		"odd address":     {[]message{open, {cmd: cmdAdd, image: img, pages: 1, address: 8}}, listSink{}, "out of range"},
		"flags":           {[]message{open, {cmd: cmdAdd, image: img, pages: 1, flags: 8}}, listSink{}, "unknown flags"},
		"wide flags":      {[]message{open, {cmd: cmdAdd, image: img, pages: 1, flags: 0x104}}, listSink{}, "unknown flags"},
		"no data":         {[]message{open, {cmd: cmdAdd, image: img, pages: 1, flags: 4}}, listSink{skip: true}, "were not read"},
		"cut short":       {[]message{open}, listSink{}, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			err, _ := serve(t, widePages, &test.sink, func(_ *PageClient, conn net.Conn) error {
				for _, m := range test.messages {
					conn.Write(m.appendTo(nil, widePages))
				}
				if name == "no data" {
					conn.Write(make([]byte, PageSize))
				}
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), test.want) || test.sink.closed {
				t.Errorf("ServePages = %v, closed %v, want %q and an open sink", err, test.sink.closed, test.want)
			}
		})
	}
}

func TestServePagesSinkFails(t *testing.T) {
	fail := errors.New("disk on fire")
	serverErr, clientErr := serve(t, widePages, &listSink{err: fail}, func(c *PageClient, _ net.Conn) error { return c.Close() })
	if !errors.Is(serverErr, fail) || clientErr == nil || !strings.Contains(clientErr.Error(), "status -1") {
		t.Errorf("ServePages = %v, client = %v, want %v and status -1", serverErr, clientErr, fail)
	}
}

func TestServePagesCancelled(t *testing.T) {
	ours, theirs, err := PageSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	cause := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := ServePages(ctx, ours, widePages, &listSink{}); !errors.Is(err, cause) {
		t.Errorf("ServePages = %v, want %v", err, cause)
	}
}

// TestMessageGolden holds the bytes of both layouts (little-endian machines).
func TestMessageGolden(t *testing.T) {
	m := message{cmd: cmdAdd, flags: 6, pages: 256, address: 0x7f0012345000, image: PageImage{ShmemImage, 0x42}}
	for v, want := range map[Version]string{
		40101: "06000600" + "00010000" + "0050341200" + "7f0000" + "0242000000000000",
		40200: "06000600" + "00000000" + "0001000000000000" + "0050341200" + "7f0000" + "0242000000000000",
	} {
		got := m.appendTo(nil, v)
		if hex.EncodeToString(got) != want {
			t.Errorf("%v: %x, want %s", v, got, want)
		}
		if back, err := parseMessage(got, v); err != nil || back != m {
			t.Errorf("%v: parseMessage = %+v, %v, want %+v", v, back, err, m)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(message{cmd: cmdOpen, image: PageImage{TaskImage, 1}}.appendTo(nil, 40100), false)
	f.Add(message{cmd: cmdAdd, pages: 3, flags: 4}.appendTo(nil, 40200), true)
	f.Fuzz(func(t *testing.T, b []byte, wide bool) {
		v := Version(40100)
		if wide {
			v = 40200
		}
		m, err := parseMessage(b, v)
		if err != nil {
			return
		}
		again, err := parseMessage(m.appendTo(nil, v), v)
		if err != nil || again != m {
			t.Errorf("round trip of %x: %+v, %v, want %+v", b, again, err, m)
		}
		if e, err := m.extent(); err == nil && e.Address+e.Bytes() < e.Address {
			t.Errorf("extent wraps: %+v", e)
		}
	})
}

// FuzzServePages feeds a whole stream.
func FuzzServePages(f *testing.F) {
	img := PageImage{TaskImage, 1}
	b := message{cmd: cmdOpen, image: img}.appendTo(nil, widePages)
	b = message{cmd: cmdAdd, image: img, pages: 1, flags: 4}.appendTo(b, widePages)
	b = append(b, make([]byte, PageSize)...)
	f.Add(message{cmd: cmdForceClose}.appendTo(b, widePages))
	f.Fuzz(func(t *testing.T, stream []byte) {
		ours, theirs := net.Pipe()
		go func() {
			go io.Copy(io.Discard, theirs)
			theirs.Write(stream)
			theirs.Close()
		}()
		_ = ServePages(t.Context(), ours, widePages, &listSink{})
	})
}

// BenchmarkServePages is the most that CRIU could be read at.
func BenchmarkServePages(b *testing.B) {
	ours, theirs, err := PageSocket()
	if err != nil {
		b.Fatal(err)
	}
	conn, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	done := make(chan error, 1)
	go func() { done <- ServePages(b.Context(), ours, widePages, &bufferSink{buf: make([]byte, 1<<20)}) }()
	c := NewPageClient(conn, widePages)
	img := PageImage{TaskImage, 1}
	if _, err := c.Open(img); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 256*PageSize)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := c.Extent(Extent{img, 0x400000, 256, PagePresent}, data); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(c.Close(), <-done); err != nil {
		b.Fatal(err)
	}
}

type bufferSink struct{ buf []byte }

func (s *bufferSink) Open(PageImage) (bool, error) { return false, nil }
func (s *bufferSink) Close() error                 { return nil }
func (s *bufferSink) Extent(e Extent, r io.Reader) error {
	_, err := io.ReadFull(r, s.buf[:e.Bytes()])
	return err
}
