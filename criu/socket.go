package criu

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	maxMessage = 1 << 20 // CRIU's messages are a few hundred bytes; cr_errmsg is the longest part
	maxFiles   = 4       // descriptors with one message; CRIU sends at most one
)

// socket is one end of the RPC connection: one protobuf message a datagram.
// It is not safe for concurrent use, but close may be called at any time.
type socket struct {
	conn *net.UnixConn
	buf  []byte
	oob  []byte
}

// newSocket makes a connected pair. theirs is for the child; the kernel
// records this process as its peer, which is how CRIU finds our descriptors.
func newSocket() (ours *socket, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making the socket to criu: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "criu-rpc")
	conn, err := fileConn(fds[0])
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return &socket{conn: conn, buf: make([]byte, maxMessage), oob: make([]byte, unix.CmsgSpace(maxFiles*4))}, theirs, nil
}

// fileConn turns a unix socket's descriptor, which it takes over, into a
// connection.
func fileConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("socket to criu: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

func (s *socket) close() error { return s.conn.Close() }

// expire bounds the next receive.
func (s *socket) expire(at time.Time) {
	_ = s.conn.SetReadDeadline(at) // fails only on a closed socket, and then so does the read
}

// send writes one request.
func (s *socket) send(req *rpc.CriuReq) error {
	b, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encoding request to criu: %w", err)
	}
	if _, err := s.conn.Write(b); err != nil {
		return fmt.Errorf("sending request to criu: %w", closed(err))
	}
	return nil
}

// errClosed means that CRIU closed the socket without an answer.
var errClosed = errors.New("criu ended without an answer")

// closed is err, or errClosed if that is what err means.
func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return errClosed
	}
	return err
}

// receive reads one answer and the file that came with it, or nil. The file
// is close-on-exec, and the caller's.
func (s *socket) receive() (*rpc.CriuResp, *os.File, error) {
	n, oobn, flags, _, err := s.conn.ReadMsgUnix(s.buf, s.oob)
	if err != nil {
		return nil, nil, fmt.Errorf("reading criu's answer: %w", closed(err))
	}
	file, err := takeFile(s.oob[:oobn])
	if err != nil {
		return nil, nil, fmt.Errorf("reading criu's answer: %w", err)
	}
	resp, err := parseAnswer(s.buf[:n], flags)
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, nil, fmt.Errorf("reading criu's answer: %w", err)
	}
	return resp, file, nil
}

// parseAnswer decodes one datagram, given recvmsg's flags.
func parseAnswer(b []byte, flags int) (*rpc.CriuResp, error) {
	if flags&unix.MSG_TRUNC != 0 {
		return nil, fmt.Errorf("message longer than %d bytes", maxMessage)
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return nil, fmt.Errorf("more than %d files in one message", maxFiles)
	}
	if len(b) == 0 {
		return nil, errClosed
	}
	resp := &rpc.CriuResp{}
	if err := proto.Unmarshal(b, resp); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	return resp, nil
}

// takeFile returns the one file in a control message, or nil. Every
// descriptor that arrived is either returned or closed.
func takeFile(oob []byte) (*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var fds []int
	for _, m := range msgs {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) == 0 {
		return nil, nil
	}
	for _, fd := range slices.Backward(fds[1:]) {
		unix.Close(fd)
	}
	if len(fds) > 1 {
		unix.Close(fds[0])
		return nil, fmt.Errorf("%d files in one message, want one", len(fds))
	}
	return os.NewFile(uintptr(fds[0]), "from-criu"), nil
}
