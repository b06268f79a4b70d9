package testhost

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outputDelay is how long the command's output is read after the command has
// ended: a daemon that it started may hold the pipe for ever.
const outputDelay = 100 * time.Millisecond

// binPath is where a host has migrate and testload.
const binPath = "/run/migrate-bin"

// Exec runs a command in the host in a session of its own and returns its exit
// status, 128 + N when signal N ended it. The calling process joins the host
// with it and must do nothing else afterwards.
//
// The command gets no descriptor from outside but pipes: a file that is open
// through a mount the host does not have is one that CRIU cannot dump ("Can't
// lookup mount=N for fd=N"). A terminal becomes a new one of the host's.
func (h *Host) Exec(args []string) (int, error) {
	pid := h.InitPID()
	if pid == 0 {
		return 0, fmt.Errorf("host %s is not up", h.Name)
	}
	// What the caller forgot to close is from outside, too.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 0, fmt.Errorf("close descriptors: %w", err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "/"
	}
	runtime.LockOSThread() // what this thread enters, the command is born into
	if err := h.enter(pid); err != nil {
		return 0, err
	}
	path, err := lookPath(args[0])
	if err != nil {
		return 0, err
	}
	if fi, err := os.Stat(cwd); err != nil || !fi.IsDir() {
		cwd = "/"
	}
	cmd := &exec.Cmd{Path: path, Args: args, Dir: cwd, Env: append(os.Environ(), "PATH="+searchPath()), WaitDelay: outputDelay}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	return runRelayed(cmd)
}

// enter moves the process into the host's cgroups and the thread into its
// namespaces.
func (h *Host) enter(pid int) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	defer unix.Close(fd)
	if err := h.joinCgroups(trees, initCgroup); err != nil {
		return err
	}
	// A thread that shares its working directory with others may not change
	// its mount namespace; setns(2).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare working directory: %w", err)
	}
	if err := unix.Setns(fd, namespaces|unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("enter host %s: %w", h.Name, err)
	}
	return nil
}

// runtimesPath is where scripts/setup puts container runtimes that the machine
// has not.
const runtimesPath = "/usr/local/lib/migrate/runtimes/bin"

// searchPath is the caller's with the host's programs in front.
func searchPath() string {
	return binPath + ":" + runtimesPath + ":" + cmp.Or(os.Getenv("PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// lookPath finds a program as the host sees it.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(searchPath()) {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// runRelayed runs cmd with its standard streams relayed to the process's own.
func runRelayed(cmd *exec.Cmd) (int, error) {
	if isTerminal(os.Stdin) && isTerminal(os.Stdout) {
		return runOnTerminal(cmd)
	}
	// An os.File would be handed on; what hides it makes a pipe.
	cmd.Stdout, cmd.Stderr = writerFor(os.Stdout), writerFor(os.Stderr)
	if !isNull(os.Stdin) {
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return 0, err
		}
		go func() {
			// The command may have closed its end; its status says enough.
			_, _ = io.Copy(stdin, os.Stdin)
			stdin.Close()
		}()
	}
	defer passSignals(cmd)()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return status(cmd.Wait())
}

// writerFor returns nil, which exec opens as the host's /dev/null, or what
// makes exec relay through a pipe.
func writerFor(f *os.File) io.Writer {
	if isNull(f) {
		return nil
	}
	return struct{ io.Writer }{f}
}

func isNull(f *os.File) bool {
	var null, st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) != nil ||
		unix.Stat(os.DevNull, &null) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == null.Rdev
}

// passSignals passes on to the command what asks this process to end. The
// returned function stops that.
func passSignals(cmd *exec.Cmd) (stop func()) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	go func() {
		for sig := range c {
			if cmd.Process != nil {
				_ = cmd.Process.Signal(sig) // ended already is as good
			}
		}
	}()
	return func() { signal.Stop(c); close(c) }
}

// status turns what Wait returned into an exit status.
func status(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case !errors.As(err, &exit):
		return 0, err
	}
	if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// NotFound reports whether a command could not be started because there is
// none of that name.
func NotFound(err error) bool {
	return slices.ContainsFunc([]error{exec.ErrNotFound, fs.ErrNotExist}, func(e error) bool { return errors.Is(err, e) })
}
