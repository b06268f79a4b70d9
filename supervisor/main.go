package supervisor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main is the supervisor: the hidden command [Verb] with its arguments, which
// [Start] gives it. It returns when the workload has ended and its end is
// recorded, when it was moved away or discarded, or when ctx ends, which stops
// nothing.
func Main(ctx context.Context, args []string) error {
	ready := readyPipe()
	closeInherited()
	s, err := setUp(args)
	if err != nil {
		fmt.Fprintln(ready, err)
		ready.Close()
		return err
	}
	_, err = io.WriteString(ready, readyWord)
	if err := errors.Join(err, ready.Close()); err != nil {
		s.log.Warn("the starter does not listen", "cause", err)
	}
	return s.serve(ctx)
}

// readyPipe returns the pipe to the starter. Without one, as in a supervisor
// that somebody started by hand, its word goes nowhere.
func readyPipe() io.WriteCloser {
	var st unix.Stat_t
	if unix.Fstat(readyFD, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nopCloser{io.Discard}
	}
	unix.CloseOnExec(readyFD)
	return os.NewFile(readyFD, "ready")
}

// closeInherited closes what the starter left open by mistake, such as its
// terminal or a lock: whatever came through execve(2) lacks the flag that every
// descriptor of a Go program's own has.
func closeInherited() {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range fds {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// config is what [Start] passes on the command line.
type config struct{ name, stateDir, runDir string }

func parseArgs(args []string) (c config, err error) {
	f := flag.NewFlagSet(Verb, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.name, "name", "", "")
	f.StringVar(&c.stateDir, "state-dir", "", "")
	f.StringVar(&c.runDir, "run-dir", "", "")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if c.name == "" || c.stateDir == "" || c.runDir == "" || f.NArg() > 0 {
		return c, fmt.Errorf("%s needs --name, --state-dir and --run-dir, and is for internal use", Verb)
	}
	return c, nil
}

// setUp makes this process a supervisor that listens.
func setUp(args []string) (*server, error) {
	cfg, err := parseArgs(args)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("workload", cfg.name)
	// Handled, not ignored: an ignored signal would stay so in the workload.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	listener, err := listen(SocketPath(cfg.runDir, cfg.name))
	if err != nil {
		return nil, err
	}
	if err := joinOwnCgroup(); err != nil {
		log.Warn("staying in the starter's cgroup", "cause", err)
	}
	reaper, err := startReaper()
	if err != nil {
		return nil, err
	}
	return newServer(cfg, log, listener, reaper), nil
}
