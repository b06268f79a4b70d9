package fill

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// socketName is where a restore looks for who fills (uffd.c,
// LAZY_PAGES_SOCK_NAME), in CRIU's work directory.
const socketName = "lazy-pages.socket"

// restoreFinished is what CRIU says last (uffd.c, LAZY_PAGES_RESTORE_FINISHED).
const restoreFinished = 0x52535446

// intake is the connection with CRIU: for each task its number as an int32,
// negative for a zombie, and then, behind one byte of no meaning, its
// userfaultfd; at the end [restoreFinished]. CRIU waits for no answer.
type intake struct {
	path       string
	fd         int // listens, and then is the connection; -1 at its end
	accepted   bool
	number     []byte // what has come of the next one
	expectsFD  bool
	pid        uint64
	registered func(pid uint64, fd int)
}

// listenForCRIU replaces a socket that an earlier attempt left.
func listenForCRIU(dir string, registered func(pid uint64, fd int)) (*intake, error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// A socket address holds no more than 107 bytes (unix(7)).
	short := filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), socketName)
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: short}); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), unix.Close(fd))
	}
	return &intake{path: path, fd: fd, registered: registered}, nil
}

// pollFD is -1, which poll(2) ignores, when nothing can come.
func (in *intake) pollFD() int {
	if in == nil {
		return -1
	}
	return in.fd
}

// receive takes what has come. It reports whether CRIU has restored the tree.
func (in *intake) receive() (finished bool, err error) {
	if !in.accepted {
		return false, in.accept()
	}
	for {
		finished, err = in.next()
		if errors.Is(err, unix.EAGAIN) {
			return false, nil
		}
		if finished || err != nil {
			in.close()
		}
		if finished || errors.Is(err, io.EOF) {
			return finished, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// over reports whether CRIU will say no more, or has not begun to.
func (in *intake) over() bool { return in == nil || in.fd < 0 || !in.accepted }

func (in *intake) accept() error {
	fd, _, err := unix.Accept4(in.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err == unix.EAGAIN || err == unix.ECONNABORTED || err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	unix.Close(in.fd)
	in.fd, in.accepted = fd, true
	return os.Remove(in.path)
}

// next takes one number or userfaultfd. The end of the connection is [io.EOF]:
// the restore has failed, or CRIU was killed.
func (in *intake) next() (finished bool, err error) {
	size := 4 - len(in.number)
	if in.expectsFD {
		size = 1
	}
	b, oob := make([]byte, size), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(in.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	switch {
	case err == unix.EINTR:
		return false, nil
	case err == unix.ECONNRESET, err == nil && n == 0:
		return false, io.EOF
	case err != nil:
		return false, err
	case in.expectsFD:
		return false, in.take(oob[:oobn])
	}
	if in.number = append(in.number, b[:n]...); len(in.number) < 4 {
		return false, nil
	}
	number := int32(binary.NativeEndian.Uint32(in.number))
	in.number = nil
	if number > 0 && number != restoreFinished {
		in.pid, in.expectsFD = uint64(number), true
	}
	return number == restoreFinished, nil
}

func (in *intake) take(oob []byte) error {
	in.expectsFD = false
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("criu sent no descriptor for %d", in.pid)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("criu sent no descriptor for %d", in.pid)
	}
	in.registered(in.pid, fds[0])
	return nil
}

func (in *intake) close() {
	unix.Close(in.fd)
	in.fd = -1
}
