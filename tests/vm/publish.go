package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// publishDir is where other processes find the sets that run.
const publishDir = "/run/migrate-vm"

// Published is what other processes may know of a set.
type Published struct {
	PID      int       `json:"pid"` // of the process that it ends with
	Bare     bool      `json:"bare"`
	Machines []Running `json:"machines"`
}

// Running is a machine of a published set.
type Running struct {
	Guest   `json:"-"`
	Host    Host   `json:"host"`
	PID     int    `json:"pid"` // of QEMU
	Version string `json:"kernel"`
	Console string `json:"console"` // file
}

func publishPath(set string) string { return filepath.Join(publishDir, set+".json") }

// Publish lets other processes [Open] the set. The returned function takes
// that back.
func (s *Set) Publish(set string) (remove func(), err error) {
	if p, err := Open(set); err == nil {
		return nil, fmt.Errorf("the set %s runs already, as process %d; end it with \"vm down\"", set, p.PID)
	}
	p := Published{PID: os.Getpid(), Bare: s.bare}
	for _, m := range s.Machines {
		p.Machines = append(p.Machines, Running{Host: m.Host, PID: m.cmd.Process.Pid, Version: m.Kernel.Version, Console: m.console})
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(publishDir, 0o755); err != nil {
		return nil, err
	}
	return func() {
		_ = os.Remove(publishPath(set)) // a set whose process is gone does not run
		_ = os.Remove(publishDir)       // unless there are others
	}, os.WriteFile(publishPath(set), b, 0o644)
}

// Open finds a set that another process runs.
func Open(set string) (p Published, err error) {
	b, err := os.ReadFile(publishPath(set))
	if err != nil || json.Unmarshal(b, &p) != nil || unix.Kill(p.PID, 0) != nil {
		return p, fmt.Errorf("no machines run as the set %s; start them with \"vm up\"", set)
	}
	for i, m := range p.Machines {
		p.Machines[i].Guest = guestOf(m.Host, m.PID)
	}
	return p, nil
}

// Lookup finds a machine by name.
func (p Published) Lookup(name string) (Running, error) {
	for _, m := range p.Machines {
		if m.Host.Name == name {
			return m, nil
		}
	}
	return Running{}, fmt.Errorf("the set has no machine %q", name)
}

// Down ends a set and waits until its process is gone.
func Down(ctx context.Context, set string) error {
	p, err := Open(set)
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, syscall.SIGTERM, nil, 0); err != nil {
		return err
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((200 * time.Millisecond).Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}

// Refresh builds the tree's programs, copies them into a set's machines and
// restarts the agents.
func Refresh(ctx context.Context, set, root string) error {
	p, err := Open(set)
	if err != nil {
		return err
	}
	bin, err := buildPrograms(ctx, root)
	if err != nil {
		return err
	}
	guests := make([]Guest, len(p.Machines))
	for i, m := range p.Machines {
		guests[i] = m.Guest
	}
	return each(guests, func(g Guest) error {
		if err := putPrograms(ctx, g, bin); err != nil || p.Bare {
			return err
		}
		if err := stopAgent(ctx, g); err != nil {
			return err
		}
		return startAgent(ctx, g, guests)
	})
}
