package supervisor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// lastPID is the number that was given out last in our PID namespace; a
// writer can set it (CONFIG_CHECKPOINT_RESTORE, which CRIU needs as well).
const lastPID = "/proc/sys/kernel/ns_last_pid"

// pidGap is how many numbers behind those of the tree are left free as well: it
// goes on to start threads and processes until the freeze, which get the next
// ones on its own host.
const pidGap = 512

// passPIDs makes the kernel's counter pass the numbers in avoid if they are
// still ahead of it, so that no new process or thread takes one before the
// restore does. Numbers behind the counter come up only once it wraps.
func passPIDs(avoid []int) error {
	if len(avoid) == 0 {
		return nil
	}
	last, err := readNumber(lastPID)
	if err != nil {
		return fmt.Errorf("keeping PIDs free: %w", err)
	}
	limit, err := readNumber("/proc/sys/kernel/pid_max")
	if err != nil {
		return fmt.Errorf("keeping PIDs free: %w", err)
	}
	top := max(slices.Max(avoid), min(slices.Max(avoid)+pidGap, limit-1))
	if last >= top {
		return nil
	}
	if err := os.WriteFile(lastPID, []byte(strconv.Itoa(top)), 0); err != nil {
		return fmt.Errorf("keeping PIDs free: %w", err)
	}
	return nil
}

func readNumber(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// ownConflict names the number in pids that this process or one of its threads
// has, or that of the process other.
func ownConflict(pids []int, other int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	var problems []error
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err == nil && slices.Contains(pids, tid) {
			problems = append(problems, fmt.Errorf("the workload's PID %d is taken by its supervisor", tid))
		}
	}
	if slices.Contains(pids, other) {
		problems = append(problems, fmt.Errorf("the workload's PID %d is taken by CRIU", other))
	}
	return errors.Join(problems...)
}
