package main

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/journal"
	"migrate/transport"
	"migrate/workload"
)

// TestEveryOptionHasItsFlag holds the flags of move and check to the names of
// migrate.Options, so that what a journal shows can be typed.
func TestEveryOptionHasItsFlag(t *testing.T) {
	for _, cmd := range []*cobra.Command{newMoveCommand(&app{}), newCheckCommand(&app{})} {
		for _, name := range jsonFields(reflect.TypeOf(migrate.Options{})) {
			if cmd.Flags().Lookup(name) == nil {
				t.Errorf("%s has no flag --%s", cmd.Name(), name)
			}
		}
	}
}

func TestFlagsHaveTheDefaults(t *testing.T) {
	var o moveOptions
	cmd := &cobra.Command{}
	bindMove(&app{}, cmd, &o)
	if err := cmd.ParseFlags(nil); err != nil {
		t.Fatal(err)
	}
	if want := (migrate.Options{}).WithDefaults(); !reflect.DeepEqual(o.move, want) {
		t.Errorf("got %+v, want %+v", o.move, want)
	}
}

// TestEveryCommandExplainsItself walks through all commands.
func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s lacks a text or an example", c.CommandPath())
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 90 {
				t.Errorf("%s: line too long for a terminal: %s", c.CommandPath(), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand(&app{}))
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), codeFailed},
		{fmt.Errorf("x: %w", usagef("y")), codeUsage},
		{advise(usagef("y"), "z"), codeUsage},
		{&blockedError{advise(errors.New("y"), "z")}, codeBlocked},
		{end(17), 17},
		{&unknownError{"hostA", "", errors.New("lost")}, codeInDoubt},
		{&refusedError{}, codeFailed},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("exitCode(%v) = %d, want %d", c.err, got, c.want)
		}
	}
	for s, want := range map[migrate.Status]int{
		migrate.StatusCompleted: 0, migrate.StatusBlocked: 3, migrate.StatusFailed: 4, migrate.StatusCancelled: 4, migrate.StatusInDoubt: 5, "": 4,
	} {
		if got := statusCode(s); got != want {
			t.Errorf("statusCode(%q) = %d, want %d", s, got, want)
		}
	}
}

func TestFailureOf(t *testing.T) {
	own := &refusedError{migrate.Failure{What: "w", Cause: "c", Advice: "a"}}
	if got := failureOf(fmt.Errorf("around: %w", own)); got != own.failure {
		t.Errorf("got %+v", got)
	}
	if got := failureOf(fmt.Errorf("dialling: %w", transport.ErrUnreachable)); got.Advice == "" || got.What != "no agent answers" {
		t.Errorf("got %+v", got)
	}
	if got := failureOf(fs.ErrNotExist); got.What != fs.ErrNotExist.Error() || got.Cause != "" {
		t.Errorf("got %+v", got)
	}
	if got := failureOf(advise(fmt.Errorf("x: %w", own), "b")); got.What != "w" || got.Advice != "b" {
		t.Errorf("got %+v", got)
	}
}

// TestOwners holds what is shown to what the journal's own table decides:
// what recovery would do without asking says who has the workload.
func TestOwners(t *testing.T) {
	for _, side := range []migrate.Side{migrate.Source, migrate.Target} {
		for p := migrate.Connect; p <= migrate.RolledBack; p++ {
			r := journal.Record{Side: side, Phase: p, Status: migrate.StatusActive}
			var want migrate.Owner
			switch journal.Recovery(side, p) {
			case journal.Thaw, journal.Discard:
				want = migrate.OwnerSource
			case journal.Resume, journal.Finish:
				want = migrate.OwnerTarget
			case journal.AskPeer:
				want = migrate.OwnerInDoubt
			case journal.Nothing:
				want = migrate.OwnerTarget
				if p == migrate.RolledBack {
					want = migrate.OwnerSource
				}
			default:
				continue // no such record
			}
			if got := ownerOf(r); got != want {
				t.Errorf("%s in %s: owner %s, want %s", side, p, got, want)
			}
			dead, alive := statusOf(r, false), statusOf(r, true)
			if (dead == migrate.StatusInDoubt) != (want == migrate.OwnerInDoubt) || alive == migrate.StatusInDoubt {
				t.Errorf("%s in %s: status %s, alive %s", side, p, dead, alive)
			}
		}
	}
}

func TestReportOfRecovered(t *testing.T) {
	old := fixedReport()
	old.Status, old.Owner, old.Error = migrate.StatusInDoubt, migrate.OwnerInDoubt, &migrate.Failure{What: "no answer"}
	r := journal.Record{ID: old.ID, Side: migrate.Source, Phase: migrate.Done, Status: migrate.StatusCompleted, Report: old}
	got := reportOf(r, false)
	if got.Status != migrate.StatusCompleted || got.Owner != migrate.OwnerTarget || got.Error != nil {
		t.Errorf("got %s, %s, %v", got.Status, got.Owner, got.Error)
	}
	if old.Status != migrate.StatusInDoubt {
		t.Error("the record was changed")
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]int{"TERM": 15, "sigint": 2, "9": 9, "KILL": 9, "": 0, "0": 0, "99": 0, "NO": 0} {
		got, err := parseSignal(s)
		if int(got) != want || (err != nil) != (want == 0) {
			t.Errorf("parseSignal(%q) = %d, %v", s, got, err)
		}
	}
}

func TestMergeEnv(t *testing.T) {
	got := mergeEnv([]string{"A=1", "B=2", "A=3"}, []string{"A=4", "C="})
	if want := []string{"B=2", "A=4", "C="}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRefOf(t *testing.T) {
	for _, ref := range []string{"process:77", "capsule:web", "runc:web", "crun:a+b"} {
		parsed, err := workload.Parse(ref)
		if err != nil {
			t.Fatal(err)
		}
		if got := (workload.Record{Kind: parsed.Kind, ID: parsed.ID, Name: parsed.Name()}).Ref().String(); got != ref {
			t.Errorf("got %q, want %q", got, ref)
		}
	}
}
