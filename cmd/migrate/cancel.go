package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/journal"
	"migrate/source"
)

const cancelLong = `Cancels a migration of which this host is the source, and waits until it is
rolled back: the workload runs on here. Past the commit point nothing can be
cancelled.

Exit status:
  0  cancelled: the workload runs on here
  1  the command line is wrong
  4  it could not be cancelled
  5  it ended in doubt meanwhile`

const cancelExample = `  migrate cancel 0123456789abcdef`

func newCancelCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "cancel ID",
		Short:             "Cancel a migration and roll it back",
		Long:              cancelLong,
		Example:           cancelExample,
		Args:              exactly("ID"),
		ValidArgsFunction: completeID(a, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCancel(cmd.Context(), a, args)
		},
	}
}

func runCancel(ctx context.Context, a *app, args []string) error {
	id, err := migrate.ParseID(args[0])
	if err != nil {
		return &usageError{err}
	}
	_, err = source.Ask(a.runDir, id, "cancel")
	if errors.Is(err, source.ErrNotLive) {
		return a.whyNotLive(id, "cancel")
	}
	if err != nil {
		return err
	}
	r, err := a.awaitEnd(ctx, id)
	if err != nil {
		return err
	}
	switch r.Phase {
	case migrate.RolledBack:
		fmt.Fprintln(a.stdout, plain(fmt.Sprintf("%s cancelled: %s runs on here", id, r.Workload)))
		return nil
	case migrate.Done:
		return fmt.Errorf("too late: %s runs on %s", r.Workload, peerOf(r))
	}
	a.printer().note("migration %s is in doubt: see \"migrate recover --help\"", id)
	return end(codeInDoubt)
}

// whyNotLive says why nobody here takes a command about a migration.
func (a *app) whyNotLive(id migrate.ID, verb string) error {
	_, list, err := a.records(a.printer(), string(id))
	if err != nil {
		return err
	}
	r := list[0]
	switch {
	case r.Side == migrate.Target && !r.Phase.Over():
		return advise(fmt.Errorf("migration %s comes from %s", id, peerOf(r)), "%s it there", verb)
	case r.Phase.Over():
		return fmt.Errorf("migration %s is over (%s)", id, r.Phase)
	}
	return advise(source.ErrNotLive, "put right what is left of it with \"migrate recover %s\"", id)
}

// awaitEnd returns the record of a cancelled migration once its process has
// let go of it.
func (a *app) awaitEnd(ctx context.Context, id migrate.ID) (journal.Record, error) {
	j, err := a.journal()
	if err != nil {
		return journal.Record{}, err
	}
	for {
		r, err := j.Get(id, migrate.Source)
		if err != nil {
			return r, err
		}
		if !a.live(j, r) {
			return j.Get(id, migrate.Source) // with what it wrote last
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return r, context.Cause(ctx)
		}
	}
}
