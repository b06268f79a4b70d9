package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"migrate"
	"migrate/internal/testhost"
)

// moved is "migrate move" with the entry's tracker.
func moved(ctx context.Context, from, to *testhost.Host, e *Entry, pid int, flags ...string) error {
	r, peak, err := move(ctx, from, append([]string{"process:" + strconv.Itoa(pid), to.Name, "--json", "--tracker", e.Tracker}, flags...))
	if err != nil {
		return err
	}
	if string(r.Tracker) != e.Tracker {
		return fmt.Errorf("%w as %s: %s", errUnavailable, e.Tracker, r.TrackerWhy)
	}
	e.Frozen = append(e.Frozen, ms(time.Duration(r.FrozenTime)))
	e.Total = append(e.Total, ms(time.Duration(r.TotalTime)))
	e.Wire = append(e.Wire, r.Transferred)
	e.AgentPeak = append(e.AgentPeak, peak)
	e.addParts(r)
	return nil
}

// move runs "migrate move" and returns its report, and the peak of its memory.
func move(ctx context.Context, h *testhost.Host, args []string) (r migrate.Report, peak uint64, err error) {
	const script = `migrate move "$@" & echo $!; wait $!`
	cmd := h.Command(ctx, "sh", append([]string{"-c", script, "sh"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, 0, err
	}
	if err := cmd.Start(); err != nil {
		return r, 0, err
	}
	lines := bufio.NewReader(out)
	first, _ := lines.ReadString('\n') // "" when it could not be started, which Wait tells
	pid, _ := strconv.Atoi(strings.TrimSpace(first))
	seen := make(chan uint64)
	go func() { seen <- watchPeak(h.MachinePID(pid)) }()
	text, _ := io.ReadAll(lines)
	peak = <-seen
	if err := cmd.Wait(); err != nil {
		return r, 0, fmt.Errorf("migrate move %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	r, err = testhost.Report(string(text))
	return r, peak, err
}

// watchPeak returns the most memory that a process had at a time, in bytes,
// when it has ended.
func watchPeak(pid int) (peak uint64) {
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, line, found := strings.Cut(string(b), "VmHWM:")
		if err != nil || !found { // gone, or a zombie
			return peak
		}
		var kib uint64
		fmt.Sscan(line, &kib)
		peak = kib << 10
		time.Sleep(20 * time.Millisecond)
	}
}

// downParts are the phases of which a move's downtime consists.
var downParts = []migrate.Phase{migrate.Freeze, migrate.StopAndCopy, migrate.Restore, migrate.Commit}

func (e *Entry) addParts(r migrate.Report) {
	if e.Parts == nil {
		e.Parts = map[string][]float64{}
	}
	for _, p := range downParts {
		var sum time.Duration
		for _, t := range r.Phases {
			if t.Name == p.String() {
				sum += time.Duration(t.Duration)
			}
		}
		e.Parts[p.String()] = append(e.Parts[p.String()], ms(sum))
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
