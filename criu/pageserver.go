package criu

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// socketBuffer lets CRIU run ahead of a reader that is busy for a moment.
	socketBuffer = 8 << 20
	// readBuffer is kept small: what is behind it is copied twice.
	readBuffer = 16 << 10
)

// PageSink receives the memory of a dump or a pre-dump. Its methods are called
// in the order of CRIU's stream, from one goroutine. In a dump the tree is
// frozen meanwhile: their time is frozen time. In a pre-dump Open of a task is
// called while the tree is frozen, and Extent once it runs again.
type PageSink interface {
	// Open begins an image; it is called once for each. Extents of different
	// images may be interleaved afterwards. hasParent tells CRIU whether an
	// earlier dump holds pages of it. Only if it does, and the dump tracks memory,
	// CRIU leaves pages out. For shared memory the answer must be false: CRIU
	// tracks it only through the page tables of the tree.
	Open(img PageImage) (hasParent bool, err error)
	// Extent is called for every run of pages. With PagePresent it must read
	// exactly e.Bytes() from r, which ends there. Else r is empty: with PageParent
	// alone the run did not change since the parent. Reads into large buffers go
	// straight from the socket.
	Extent(e Extent, r io.Reader) error
	// Close is called once, at the end of the stream. Its error fails the dump.
	Close() error
}

// PageSocket makes the connection between a page server and a dump. ours is
// for [ServePages]; theirs goes into [ChildOptions].Files. Buffers are 8 MiB
// where the kernel permits, else as large as it does.
func PageSocket() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making the page socket: %w", err)
	}
	for _, fd := range fds {
		enlarge(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
		enlarge(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
	}
	theirs = os.NewFile(uintptr(fds[1]), "page-socket")
	conn, err := fileConn(fds[0])
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// enlarge sets a buffer size; without CAP_NET_ADMIN the kernel's limit holds.
func enlarge(fd, force, plain int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, socketBuffer)
	}
}

// ServePages is CRIU's page server for one dump or pre-dump: it reads the stream of a CRIU
// of version v from conn and hands it to sink, until CRIU closes the stream.
// conn is closed when it returns, and as soon as ctx ends. On an error sink is
// not closed, and the dump fails.
func ServePages(ctx context.Context, conn net.Conn, v Version, sink PageSink) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	s := &pageServer{conn: conn, r: bufio.NewReaderSize(conn, readBuffer), version: v, sink: sink}
	err := s.serve()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("receiving pages from criu: %w", err)
	}
	return nil
}

type pageServer struct {
	conn    io.Writer
	r       *bufio.Reader
	version Version
	sink    PageSink
	images  map[PageImage]*imageState
}

// imageState is what was said about an image.
type imageState struct {
	parent bool // there is one
	open   bool // pages may follow
}

func (s *pageServer) serve() error {
	s.images = make(map[PageImage]*imageState)
	var buf [maxMessageSize]byte
	b := buf[:messageSize(s.version)]
	for {
		if _, err := io.ReadFull(s.r, b); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		m, err := parseMessage(b, s.version)
		if err != nil {
			return err
		}
		if last, err := s.handle(m); last || err != nil {
			return err
		}
	}
}

func (s *pageServer) handle(m message) (last bool, err error) {
	switch m.cmd {
	case cmdParent:
		return false, s.askParent(m.image)
	case cmdOpen:
		return false, s.openImage(m.image)
	case cmdAdd:
		return false, s.extent(m)
	case cmdClose, cmdForceClose:
		return true, s.finish()
	}
	return false, fmt.Errorf("unknown command %#x", uint16(m.cmd))
}

// askParent answers an int32: whether there is a parent. A pre-dump asks this
// while it holds the tree, and opens the image with the same answer later.
func (s *pageServer) askParent(img PageImage) error {
	if s.images[img] != nil {
		return fmt.Errorf("%v: asked for its parent twice", img)
	}
	state, err := s.begin(img)
	if err != nil {
		return err
	}
	var answer uint32
	if state.parent {
		answer = 1
	}
	_, err = s.conn.Write(binary.NativeEndian.AppendUint32(nil, answer))
	return err
}

// openImage answers one byte: whether there is a parent.
func (s *pageServer) openImage(img PageImage) error {
	state := s.images[img]
	if state == nil {
		var err error
		if state, err = s.begin(img); err != nil {
			return err
		}
	}
	if state.open {
		return fmt.Errorf("%v opened twice", img)
	}
	state.open = true
	answer := []byte{0}
	if state.parent {
		answer[0] = 1
	}
	_, err := s.conn.Write(answer)
	return err
}

// begin tells the sink about an image.
func (s *pageServer) begin(img PageImage) (*imageState, error) {
	if err := img.validate(); err != nil {
		return nil, err
	}
	parent, err := s.sink.Open(img)
	if err != nil {
		return nil, err
	}
	state := &imageState{parent: parent}
	s.images[img] = state
	return state, nil
}

func (s *pageServer) extent(m message) error {
	e, err := m.extent()
	if err != nil {
		return err
	}
	if state := s.images[e.Image]; state == nil || !state.open {
		return fmt.Errorf("%v: pages before it was opened", e.Image)
	}
	r := &io.LimitedReader{R: s.r}
	if e.Flags&PagePresent != 0 {
		r.N = int64(e.Bytes())
	}
	if err := s.sink.Extent(e, r); err != nil {
		return err
	}
	if r.N != 0 {
		return fmt.Errorf("%v: %d bytes at %#x were not read", e.Image, r.N, e.Address)
	}
	return nil
}

// finish answers an int32: 0, or -1 which fails the dump.
func (s *pageServer) finish() error {
	closeErr := s.sink.Close()
	var status uint32
	if closeErr != nil {
		status = ^uint32(0)
	}
	_, err := s.conn.Write(binary.NativeEndian.AppendUint32(nil, status))
	return errors.Join(closeErr, err)
}
