package testhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killTime is how long processes that were killed may take to end.
const killTime = 10 * time.Second

// KillAll kills every process in the host's own PID namespace that runs a
// program of that name, and returns when they have ended and, with them, every
// supervisor of the host.
func (h *Host) KillAll(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	victims := h.running(program)
	for _, pid := range victims {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill %s: %w", program, err)
		}
	}
	for _, pid := range append(victims, h.running("migrate", "supervise")...) {
		if err := awaitEnd(ctx, pid); err != nil {
			return fmt.Errorf("%s on host %s does not end: %w", program, h.Name, err)
		}
	}
	return nil
}

// running returns the PIDs, as the machine sees them, of the processes in the
// host's PID namespace with a command line that begins so, whatever directory
// the program is in.
func (h *Host) running(command ...string) (pids []int) {
	ns := pidNamespace(h.InitPID())
	for _, pid := range processes() {
		if ns != "" && pidNamespace(pid) == ns && runs(pid, command) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func runs(pid int, command []string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	args[0] = filepath.Base(args[0])
	return len(args) >= len(command) && slices.Equal(args[:len(command)], command)
}

// awaitEnd waits until a process has ended, by its pidfd.
func awaitEnd(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const look = 100 // ms, for ctx
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, look)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return context.Cause(ctx)
}
