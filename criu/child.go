package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/priority"
)

const (
	// ExitGrace is how long a child may take to undo what it was doing once its
	// socket is closed. Only then is it killed, and that may damage the tree:
	// connections stay locked and in repair mode, restored tasks stay stopped.
	ExitGrace = 60 * time.Second

	// pipeGrace is how long to wait, once the child has ended, for whoever still
	// holds its standard error.
	pipeGrace = time.Second

	maxStderr = 16 << 10
)

// ErrKilled means that a child did not end within [ExitGrace] and was killed.
var ErrKilled = errors.New("criu did not end after its socket was closed, and was killed: the tree may be damaged")

// ChildOptions configures [Tool.Start]. The zero value is usable.
type ChildOptions struct {
	// Cgroups are directories of cgroups that the child is moved into before
	// Start returns, so before it has done anything. With cgroup mode "ignore" a
	// restored tree stays in them.
	Cgroups []string
	// Files are inherited by the child; [Child.FD] tells their numbers there.
	// The caller closes its own copies, after Start.
	Files []*os.File
	// Stdin is the child's standard input; nil means /dev/null. If it is given,
	// the child stays in the caller's session: with ShellJob, a restore takes the
	// controlling terminal and the session from CRIU (tty.c, pstree.c).
	Stdin *os.File
	// Listing starts a child whose one dump lists private pages instead of giving
	// them: the page server gets runs with PageParent alone for all of them,
	// except where memory cannot be read (no PROT_READ), huge pages and AIO rings.
	// [PageSink].Open must answer true, except for shared memory. Which of them are
	// lazy [ReadLazyPages] tells. Only where [Tool.CanList] says so, and with a page
	// server. Start takes about 0.2 s.
	Listing bool

	Dir    string       // working directory of the child; default the caller's
	Stderr io.Writer    // nil means discard; the end of it is in errors either way
	Logger *slog.Logger // nil means discard
}

// Child is a running "criu swrk", which serves one dump, pre-dump or restore. Its
// methods must not be called at the same time, except Close, PID and FD.
//
// It runs in a session of its own, unless [ChildOptions].Stdin is given: a ^C
// on the caller's terminal must not reach a CRIU at work.
type Child struct {
	tool   Tool
	sock   *socket
	cmd    *exec.Cmd
	list   bool // started with Listing
	pidfd  int  // of a child that lists, else -1
	stderr *tail
	log    *slog.Logger

	exited    chan struct{} // closed once the process is reaped
	exitErr   error         // valid once exited is closed
	closeOnce sync.Once
	closeErr  error
}

// Start runs "criu swrk" and moves it into o.Cgroups. It does nothing yet;
// ctx bounds Start only, not the child. The caller calls Close in every case.
func (t Tool) Start(ctx context.Context, o ChildOptions) (*Child, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("starting criu: %w", err)
	}
	if o.Listing {
		return t.startListing(ctx, o)
	}
	return t.spawn(ctx, o)
}

func (t Tool) spawn(ctx context.Context, o ChildOptions) (*Child, error) {
	sock, theirs, err := newSocket()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()

	c := &Child{tool: t, sock: sock, list: o.Listing, pidfd: -1, stderr: &tail{}, log: o.Logger, exited: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.cmd = c.command(ctx, o, theirs)
	if err := c.cmd.Start(); err != nil {
		sock.close()
		return nil, fmt.Errorf("starting criu: %w", err)
	}
	priority.Raise(c.PID()) // the tree stands still while CRIU works; a restored task gets its own priority back
	go c.reap()
	if c.list && c.pidfd < 0 {
		return nil, errors.Join(errors.New("listing pages: this kernel has no pidfds"), c.Close())
	}
	for _, dir := range o.Cgroups {
		if err := c.join(dir); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	c.log.Debug("criu started", "pid", c.PID(), "path", t.Path)
	return c, nil
}

func (c *Child) command(ctx context.Context, o ChildOptions, theirs *os.File) *exec.Cmd {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.tool.Path, "swrk", strconv.Itoa(rpcFD))
	cmd.ExtraFiles = append([]*os.File{theirs}, o.Files...)
	cmd.Dir = o.Dir
	if o.Stdin != nil {
		cmd.Stdin = o.Stdin
	}
	cmd.Stderr = c.stderr
	if o.Stderr != nil {
		cmd.Stderr = io.MultiWriter(c.stderr, o.Stderr)
	}
	cmd.WaitDelay = pipeGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: o.Stdin == nil}
	if o.Listing {
		cmd.SysProcAttr.PidFD = &c.pidfd
	}
	return cmd
}

func (c *Child) reap() {
	if c.pidfd >= 0 {
		// A wait for the child would also be told that package inject stops it.
		awaitEnd(c.pidfd)
	}
	c.exitErr = c.cmd.Wait()
	close(c.exited)
}

// awaitEnd waits until a process has ended, without reaping it.
func awaitEnd(pidfd int) {
	defer unix.Close(pidfd)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func (c *Child) join(cgroup string) error {
	path := filepath.Join(cgroup, "cgroup.procs")
	if err := os.WriteFile(path, []byte(strconv.Itoa(c.PID())), 0); err != nil {
		return fmt.Errorf("moving criu into its cgroup: %w", err)
	}
	return nil
}

// PID returns the child's process ID.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// FD returns the number that Files[i] has in the child.
func (c *Child) FD(i int) int { return firstFile + i }

// Close closes the child's socket, which makes CRIU undo a dump or restore
// that is under way, and waits for its end, at most [ExitGrace]. It may be
// called at any time, more than once, and from any goroutine.
func (c *Child) Close() error {
	c.closeOnce.Do(func() {
		c.sock.close()
		c.closeErr = c.waitExit(ExitGrace)
	})
	return c.closeErr
}

// waitExit waits for the child's end and kills it when that takes longer than
// grace. The exit status is no error: CRIU answers over the socket.
func (c *Child) waitExit(grace time.Duration) error {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.exited:
		return nil
	case <-timer.C:
	}
	_ = c.cmd.Process.Kill() // unless it has just ended
	<-c.exited
	return ErrKilled
}

// tail is a writer that keeps the last bytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write keeps the end of p.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - maxStderr; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// lines returns what was kept, without empty lines.
func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return splitLines(bytes.Clone(t.b))
}
