package testload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// child is a process that sends back every number it gets, if it is the next.
type child struct {
	pid  int
	to   *os.File
	from *os.File
	seq  atomic.Uint64
}

// The descriptors of a child's pipes in the child.
const (
	childReads  = 3
	childWrites = 4
)

// startChild runs this program again. Neither os.StartProcess nor os/exec
// does, because they keep a pidfd, which not every CRIU can dump.
func startChild() (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	theirs, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	from, back, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer back.Close()
	pid, err := syscall.ForkExec(exe, []string{os.Args[0], "child"}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, theirs.Fd(), back.Fd()},
	})
	if err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	return &child{pid: pid, to: to, from: from}, nil
}

// watch exchanges numbers with the child for ever.
func (c *child) watch(fail func(error)) {
	go func() {
		var status syscall.WaitStatus
		_, err := wait(c.pid, &status)
		fail(errors.Join(fmt.Errorf("child %d ended with status %#x", c.pid, status), err))
	}()
	for {
		if err := c.exchange(); err != nil {
			fail(fmt.Errorf("child %d: %w", c.pid, err))
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func wait(pid int, status *syscall.WaitStatus) (int, error) {
	for {
		if p, err := syscall.Wait4(pid, status, 0, nil); !errors.Is(err, syscall.EINTR) {
			return p, err
		}
	}
}

// exchange keeps several numbers in the pipe, so that there is something to
// lose.
func (c *child) exchange() error {
	const burst = 8
	for range burst {
		b := binary.BigEndian.AppendUint64(nil, c.seq.Add(1))
		if _, err := c.to.Write(b); err != nil {
			return err
		}
	}
	for want := c.seq.Load() - burst + 1; want <= c.seq.Load(); want++ {
		got, err := readNumber(c.from)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("sent back %d instead of %d", got, want)
		}
	}
	return nil
}

func readNumber(r io.Reader) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint64(b[:]), err
}

// RunChild is a child process, "testload child". It returns its exit status
// when its pipe is closed.
func RunChild() int {
	in, out := os.NewFile(childReads, "in"), os.NewFile(childWrites, "out")
	for want := uint64(1); ; want++ {
		got, err := readNumber(in)
		if errors.Is(err, io.EOF) {
			return 0
		}
		if err != nil || got != want {
			fmt.Fprintf(os.Stderr, "testload child: got %d instead of %d, %v\n", got, want, err)
			return ExitFailed
		}
		if _, err := out.Write(binary.BigEndian.AppendUint64(nil, got)); err != nil {
			return ExitFailed
		}
	}
}
