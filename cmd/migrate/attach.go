package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"migrate/supervisor"
	"migrate/workload"
)

const attachLong = `Connects this terminal to a workload of this host. With a terminal of its own
("migrate run --tty", or one that it had when it moved here) every key goes to
it, and ctrl-p ctrl-q detaches. Else its output is shown as it comes, lines go to its
standard input if that is kept open ("migrate run --stdin"), and Ctrl-C
detaches. The workload runs on.

Exit status:
  that of the workload when it ends; 128 plus the number of the signal that ended it
  0    detached, or the workload moved away
  125  it could not be attached to`

const attachExample = `  migrate attach shell`

func newAttachCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "attach NAME",
		Short:             "Connect this terminal to a workload",
		Long:              attachLong,
		Example:           attachExample,
		Annotations:       map[string]string{passesStatus: "yes"},
		Args:              exactly("NAME"),
		ValidArgsFunction: completeName(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAttach(cmd.Context(), a, args)
		},
	}
}

func runAttach(ctx context.Context, a *app, args []string) error {
	rec, err := a.workload(args[0])
	if err != nil {
		return err
	}
	s, err := supervisor.Connect(a.runDir, rec.Name)
	if errors.Is(err, supervisor.ErrGone) {
		return advise(fmt.Errorf("%s does not run here, or has no supervisor to attach to", rec.Name), "see \"migrate ps --all\"")
	}
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := interruptible(ctx, errDetached, func(int) {})
	defer stop()
	stdin, restore := a.attachedInput(rec, func() { cancel(errDetached) })
	defer restore()
	sizes, stopSizes := windowSizes(a.stdin)
	defer stopSizes()
	err = s.Attach(ctx, stdin, a.stdout, sizes)
	restore()
	if errors.Is(err, errDetached) {
		a.printer().note("detached from %s; it runs on", rec.Name)
		return nil
	}
	if err != nil {
		return err
	}
	return a.endedAs(rec.Name)
}

// attachedInput returns what goes to the workload: keys if it has a terminal,
// else lines.
func (a *app) attachedInput(rec workload.Record, detach func()) (in io.Reader, restore func()) {
	if !hasTerminal(rec) {
		return a.stdin, func() {}
	}
	return &detachReader{in: a.stdin, detach: detach}, rawTerminal(a.stdin)
}

// hasTerminal reports whether the standard input of the workload's first
// process is a terminal.
func hasTerminal(rec workload.Record) bool {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", rec.LiveRoot()))
	return err == nil && strings.HasPrefix(link, "/dev/pts/")
}

// recordWait is how long a supervisor may take to record an end.
const recordWait = 3 * time.Second

// endedAs ends with the exit status of a workload that has just ended.
func (a *app) endedAs(name string) error {
	for until := time.Now().Add(recordWait); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		rec, err := workload.Load(a.stateDir, name)
		if err != nil {
			return err
		}
		switch rec.State {
		case workload.Exited:
			return end(rec.ExitCode)
		case workload.Moved:
			a.printer().note("%s moved to %s", name, rec.MovedTo)
			return nil
		}
	}
	return fmt.Errorf("how %s ended is not known", name)
}
