package supervisor

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// flushTime bounds the wait for the end of the output of a workload that has
// ended: somebody outside may hold the other end of a pipe.
const flushTime = 2 * time.Second

// stdio is our side of the pipes and terminals that a workload has to the
// outside. Nothing is read before start.
type stdio struct {
	dir     string
	limit   int64 // of a log file
	log     *slog.Logger
	outputs []*output
	inputs  []*os.File  // write ends of the pipes that the workload reads
	terms   []*terminal // the first is the one to attach to
	hub     hub
	copies  sync.WaitGroup
}

// output is a stream that is copied to a log file.
type output struct {
	file *os.File
	log  *logFile
}

// terminal is a pseudo-terminal. Our own slave keeps it from hanging up while
// the workload has it closed for a moment.
type terminal struct{ master, slave *os.File }

func newStdio(dir string, limit int64, log *slog.Logger) *stdio {
	return &stdio{dir: dir, limit: limit, log: log}
}

// pipeOut makes a pipe that the workload writes to, and returns its end.
func (s *stdio) pipeOut(stream string) (*os.File, error) {
	if !streamName.MatchString(stream) {
		return nil, fmt.Errorf("stream %.40q: not a name for one", stream)
	}
	r, w, err := newPipe(0)
	if err != nil {
		return nil, err
	}
	s.copyFrom(r, stream)
	return w, nil
}

// pipeIn makes a pipe that the workload reads from, and returns both ends. The
// stdio goes on to own the one to write to.
func (s *stdio) pipeIn() (r, w *os.File, err error) {
	r, w, err = newPipe(1)
	if err != nil {
		return nil, nil, err
	}
	s.inputs = append(s.inputs, w)
	return r, w, nil
}

// newPipe returns a pipe whose end number ours is non-blocking, so that closing it
// ends a read or write under way; the other is blocking, as programs expect.
func newPipe(ours int) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	err = unix.SetNonblock(fds[ours], true)
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), err
}

// terminal makes a terminal of the given size and returns the workload's end,
// which the stdio goes on to own.
func (s *stdio) terminal(size Size) (*os.File, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("opening a terminal: %w", err)
	}
	s.keepTerminal(master, slave)
	return slave, resize(master, size)
}

func (s *stdio) keepTerminal(master, slave *os.File) {
	stream := "stdout"
	if n := len(s.terms); n > 0 {
		stream = fmt.Sprintf("tty%d", n)
	}
	s.terms = append(s.terms, &terminal{master, slave})
	s.copyFrom(master, stream)
	s.hub.keep = scrollback
}

// adopt takes the master of a terminal that the workload has already.
func (s *stdio) adopt(master *os.File, size Size) error {
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	master.Close()
	if err != nil {
		return fmt.Errorf("taking a terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return errors.Join(fmt.Errorf("taking a terminal: %w", err), unix.Close(fd))
	}
	master = os.NewFile(uintptr(fd), "terminal")
	slave, err := peerOf(fd)
	if err != nil {
		s.log.Debug("a terminal hangs up if the workload closes it", "cause", err)
	}
	s.keepTerminal(master, slave)
	return resize(master, size)
}

// peerOf opens the slave of a terminal, wherever it is mounted (ioctl_tty(2),
// TIOCGPTPEER).
func peerOf(master int) (*os.File, error) {
	fd, err := unix.IoctlRetInt(master, unix.TIOCGPTPEER)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "slave"), nil
}

func resize(master *os.File, size Size) error {
	if size.Rows == 0 || size.Columns == 0 {
		size = Size{Rows: 24, Columns: 80}
	}
	return pty.Setsize(master, &pty.Winsize{Rows: size.Rows, Cols: size.Columns})
}

func (s *stdio) copyFrom(f *os.File, stream string) {
	s.outputs = append(s.outputs, &output{f, &logFile{path: logPath(s.dir, stream), limit: s.limit}})
}

// start begins to copy.
func (s *stdio) start() {
	for _, o := range s.outputs {
		s.copies.Go(func() { s.copy(o) })
	}
}

// copy reads to the end. A log that cannot be written must not stop the
// workload: what does not fit is dropped.
func (s *stdio) copy(o *output) {
	defer o.log.Close()
	b := make([]byte, 32<<10)
	told := false
	for {
		n, err := o.file.Read(b)
		if n > 0 {
			if _, werr := o.log.Write(b[:n]); werr != nil && !told {
				told = true
				s.log.Error("output is lost", "cause", werr)
			}
			s.hub.publish(b[:n])
		}
		if err != nil {
			// A terminal without slaves gives EIO.
			if err != io.EOF && !errors.Is(err, syscall.EIO) && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
				s.log.Error("reading output", "cause", err)
			}
			return
		}
	}
}

// finish copies what a workload that has ended wrote last, and closes all.
func (s *stdio) finish() {
	for _, t := range s.terms {
		t.slave.Close()
	}
	for _, o := range s.outputs {
		_ = o.file.SetReadDeadline(time.Now().Add(flushTime)) // best effort: else the wait below ends
	}
	done := make(chan struct{})
	go func() { s.copies.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(flushTime + flushTime/4):
		s.log.Warn("somebody outside of the workload still holds its output")
	}
	s.close()
}

// close closes all. Copies under way end.
func (s *stdio) close() {
	for _, o := range s.outputs {
		o.file.Close()
	}
	for _, f := range s.inputs {
		f.Close()
	}
	for _, t := range s.terms {
		t.slave.Close()
	}
	s.hub.close()
}

// input returns where an attached client's bytes go, or nil.
func (s *stdio) input() io.Writer {
	if len(s.terms) > 0 {
		return s.terms[0].master
	}
	if len(s.inputs) > 0 {
		return s.inputs[0]
	}
	return nil
}

// resize sets the size of the terminal to attach to.
func (s *stdio) resize(size Size) error {
	if len(s.terms) == 0 {
		return errors.New("the workload has no terminal")
	}
	return resize(s.terms[0].master, size)
}
