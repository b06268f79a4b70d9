package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"migrate"
	"migrate/supervisor"
	"migrate/workload/proc"
)

// Without a supervisor to ask, a workload's mappings tell whether it has its
// memory. Reading them takes milliseconds for each GiB.
const (
	fillPause    = 100 * time.Millisecond
	fillPatience = time.Minute
)

// A filling is a task whose memory is not complete.
type filling struct{ pid int }

func (f *filling) Error() string {
	return fmt.Sprintf("memory of process %d is still being filled in from an earlier move", f.pid)
}

func (f *filling) Failure() migrate.Failure {
	return migrate.Failure{What: f.Error(), Advice: "move again when it is complete"}
}

// awaitFill waits until the memory of a workload that has just arrived here is
// complete. If its supervisor has died, what fills it goes on by itself.
func (v *move) awaitFill(ctx context.Context) error {
	if v.super != nil {
		err := v.super.AwaitFill(ctx)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, supervisor.ErrGone):
			return fmt.Errorf("memory that is still to come from an earlier move: %w", err)
		}
	}
	return awaitFilled(ctx, v.root, fillPatience)
}

// awaitFilled waits until no task of a tree lacks memory.
func awaitFilled(ctx context.Context, root int, patience time.Duration) error {
	for end := time.Now().Add(patience); ; {
		pid, err := lacking(root)
		switch {
		case err != nil || pid == 0:
			return err
		case time.Now().After(end):
			return &filling{pid}
		}
		select {
		case <-time.After(fillPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lacking returns a task of a tree that lacks memory, or 0.
func lacking(root int) (int, error) {
	tree, err := proc.Descendants(root)
	if err != nil {
		return 0, err
	}
	for _, p := range tree {
		lacks, err := lacksMemory(p.PID)
		if err != nil && !proc.Gone(err) {
			return 0, err
		}
		if lacks {
			return p.PID, nil
		}
	}
	return 0, nil
}

// lacksMemory reports whether a mapping of the process waits for its missing
// pages, which is the flag um in smaps (proc_pid_smaps(5)).
func lacksMemory(pid int) (bool, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		flags, ok := bytes.CutPrefix(lines.Bytes(), []byte("VmFlags:"))
		if ok && slices.ContainsFunc(bytes.Fields(flags), func(f []byte) bool { return string(f) == "um" }) {
			return true, nil
		}
	}
	return false, lines.Err()
}
