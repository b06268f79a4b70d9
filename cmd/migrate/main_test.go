package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"migrate"
	"migrate/journal"
	"migrate/workload"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"migrate":           func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"migrate-as-nobody": asNobody,
	})
}

// asNobody is the program run by a user who may do nothing. The kernel's
// credentials are per thread, so all threads are changed.
func asNobody() {
	const nobody = 65534
	if err := errors.Join(syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// TestScripts runs the program as a person would, on hosts that are only
// directories.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			// A socket's path has at most 107 bytes, which a script's own
			// directory may use up.
			run, err := os.MkdirTemp("", "mig")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(run) })
			state := filepath.Join(e.WorkDir, "state")
			e.Defer(func() { killAll(t, state) })
			if err := os.Chmod(run, 0o700); err != nil {
				return err
			}
			e.Vars = append(e.Vars,
				"MIGRATE_STATE_DIR="+state,
				"MIGRATE_RUN_DIR="+filepath.Join(run, "run"),
				"MIGRATE_PKI_DIR="+filepath.Join(e.WorkDir, "pki"),
				"MIGRATE_CRIU=", "TZ=UTC",
			)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"history": writeHistory,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// killAll ends the capsules that a script has left.
func killAll(t *testing.T, stateDir string) {
	list, _ := workload.List(stateDir)
	for _, r := range list {
		if r.LiveRoot() != 0 && r.LiveRoot() != 1 {
			if err := endOrphan(context.Background(), r, syscall.SIGKILL, time.Second); err != nil {
				t.Errorf("capsule %s: %v", r.Name, err)
			}
		}
		waitGone(context.Background(), r.Supervisor, recordWait)
	}
}

// exits is "exits CODE ARG...": the program must end with that status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARG...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		status, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = status.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// writeHistory is "history DIR": a state directory with one record of each
// kind in it.
func writeHistory(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	j, err := journal.Open(filepath.Join(dir, "journal"))
	ts.Check(err)
	for _, r := range pastRecords() {
		e, err := j.Begin(r)
		ts.Check(err)
		e.Close()
	}
	for _, r := range pastWorkloads() {
		ts.Check(workload.Save(dir, r))
	}
}

var past = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pastRecords() []journal.Record {
	done := fixedReport()
	return []journal.Record{
		{ID: done.ID, Side: migrate.Source, Phase: migrate.Done, Name: "web", Workload: "capsule:web", Peer: "hostB:7420", PeerName: "hostB",
			Started: past, Status: migrate.StatusCompleted, Report: done},
		{ID: "00000000000000bb", Side: migrate.Source, Phase: migrate.RolledBack, Name: "job", Workload: "capsule:job", Peer: "hostB:7420", PeerName: "hostB",
			Started: past.Add(time.Hour), Status: migrate.StatusCancelled, Reason: &migrate.Failure{What: "the move was cancelled"}},
		{ID: "00000000000000cc", Side: migrate.Target, Phase: migrate.Held, Name: "db", Workload: "capsule:db", Peer: "hostC:7420", PeerName: "hostC",
			Started: past.Add(2 * time.Hour), Status: migrate.StatusActive},
		{ID: "00000000000000dd", Side: migrate.Source, Phase: migrate.Commit, Name: "mail", Workload: "capsule:mail", Peer: "hostB:7420", PeerName: "hostB",
			Started: past.Add(3 * time.Hour), Status: migrate.StatusInDoubt},
	}
}

func pastWorkloads() []workload.Record {
	at := func(h int) time.Time { return past.Add(time.Duration(h) * time.Hour) }
	return []workload.Record{
		{Name: "web", Kind: workload.Capsule, Command: []string{"/usr/bin/server", "--port", "80"}, Started: at(0), State: workload.Moved, MovedTo: "hostB", Ended: at(1)},
		{Name: "job", Kind: workload.Capsule, Command: []string{"job"}, Started: at(0), State: workload.Exited, ExitCode: 3, Ended: at(2)},
		{Name: "killed", Kind: workload.Capsule, Command: []string{"job"}, Started: at(0), State: workload.Exited, ExitCode: 137, Signal: 9, Ended: at(2)},
		{Name: "process-77", Kind: workload.Process, Command: []string{"sleep", "9"}, Started: at(0), State: workload.Running, Root: workload.Live{PID: 1, Start: 1}},
	}
}

// fixedReport is a report in which every field has a value.
func fixedReport() *migrate.Report {
	ms := func(f float64) migrate.Millis { return migrate.Millis(f * float64(time.Millisecond)) }
	return &migrate.Report{
		Type: "result", ID: "00000000000000aa", Workload: "capsule:web", SourceHost: "hostA", TargetHost: "hostB",
		Status: migrate.StatusCompleted, Owner: migrate.OwnerTarget, Started: past,
		TotalTime: ms(1912.5), Downtime: ms(84.25), FrozenTime: ms(61), Transferred: 96 << 20, MemoryBytes: 256 << 20,
		Tracker: migrate.TrackerHash, TrackerWhy: "no soft-dirty",
		Expected: ms(80), Restore: migrate.RestoreLazy, Throttle: 30, Verified: 65536, Redials: 1,
		Rounds: []migrate.Round{
			{Round: 1, Pages: 65536, Sent: 60000, Zero: 5536, Transferred: 84 << 20, Duration: ms(1300), Mbps: 542},
			{Round: 2, Pages: 65536, Sent: 3000, Delta: 1500, Duplicate: 250, Zero: 36, Unchanged: 60750, Transferred: 9 << 20, Duration: ms(400), Mbps: 188.7,
				DirtyRate: 15088246, Expected: ms(80), Throttle: 30},
			{Round: 3, Final: true, Pages: 65536, Sent: 700, Delta: 300, Unchanged: 64536, Transferred: 3 << 20, Duration: ms(40), Mbps: 629.1, DirtyRate: 10240000},
		},
		Clock: migrate.Clock{Policy: migrate.ClockContinue, Outage: ms(84.25), Offset: -12345678, Bound: 41000, Namespace: true},
		Phases: []migrate.PhaseTiming{
			{Name: "connect", Start: 0, Duration: ms(3)}, {Name: "preflight", Start: ms(3), Duration: ms(90)},
			{Name: "pre-copy", Start: ms(93), Duration: ms(1700)}, {Name: "freeze", Start: ms(1793), Duration: ms(2.5)},
			{Name: "stop-and-copy", Start: ms(1795.5), Duration: ms(40)}, {Name: "restore", Start: ms(1835.5), Duration: ms(31)},
			{Name: "commit", Start: ms(1866.5), Duration: ms(11)}, {Name: "finish", Start: ms(1877.5), Duration: ms(35)},
		},
		Warnings: []migrate.Finding{{Code: "kernel-older", What: "the kernel of hostB is older", Advice: "a program may fail there"}},
		Blockers: []migrate.Finding{},
	}
}
