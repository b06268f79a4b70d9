package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const rootLong = `migrate moves a running Linux workload, a process tree, a capsule or a container,
from one host to another, and either finishes on the target or leaves the
workload running on the source.

SRC names a workload: process:PID for any process tree on the host, capsule:NAME
for what "migrate run" started, runc:ID or crun:ID for a container of that
runtime. With HOST/ in front the agent of that host drives the move. DST is a
HOST or HOST:PORT on which "migrate agent" runs.

Exit status, for every command unless its help says more:
  0  done; a move: the workload runs on the target
  1  the command line is wrong
  3  refused before anything was touched; the workload runs on the source
  4  failed or cancelled; a move was rolled back, the workload runs on the source
  5  in doubt: frozen, see "migrate recover"
Take any other status for a failure.`

const rootExample = `  migrate run --name web -- /usr/bin/server --port 8080
  migrate check capsule:web hostB
  migrate move capsule:web hostB
  migrate move hostB/capsule:web hostA --json
  migrate move runc:shop hostB`

func newRootCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "migrate COMMAND",
		Short:         "Move running workloads between hosts",
		Long:          rootLong,
		Example:       rootExample,
		Args:          unknownCommand,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true}, // ours reports a wrong shell
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("no command given")
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.absolute() },
	}
	cmd.SetOut(a.stdout)
	cmd.SetErr(a.stderr)
	cmd.SetIn(a.stdin)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	a.bind(cmd.PersistentFlags())
	cmd.AddGroup(
		&cobra.Group{ID: "move", Title: "Moving:"},
		&cobra.Group{ID: "drain", Title: "Emptying hosts:"},
		&cobra.Group{ID: "run", Title: "Workloads:"},
		&cobra.Group{ID: "host", Title: "Hosts:"},
	)
	add := func(group string, list ...*cobra.Command) {
		for _, c := range list {
			c.GroupID = group
			cmd.AddCommand(c)
		}
	}
	add("move", newMoveCommand(a), newCheckCommand(a), newStatusCommand(a), newSetCommand(a), newCancelCommand(a),
		newRecoverCommand(a), newReportCommand(a), newHistoryCommand(a))
	add("drain", newDrainCommand(a), newUndrainCommand(a), newCordonCommand(a), newUncordonCommand(a))
	add("run", newRunCommand(a), newPsCommand(a), newLabelCommand(a), newLogsCommand(a), newExecCommand(a), newAttachCommand(a), newStopCommand(a))
	add("host", newAgentCommand(a), newAuditCommand(a), newPKICommand(a), newVersionCommand(a), newCompletionCommand(a))
	cmd.AddCommand(newSuperviseCommand(), newFillCommand(), newManCommand())
	return cmd
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := usagef("unknown command %.40q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return advise(err, "did you mean %s?", strings.Join(near, " or "))
	}
	return err
}

// exactly accepts as many arguments as there are words in names.
func exactly(names string) cobra.PositionalArgs {
	want := len(strings.Fields(names))
	return func(_ *cobra.Command, args []string) error {
		if len(args) == want {
			return nil
		}
		if want == 0 {
			return usagef("unexpected argument %.80q", args[0])
		}
		return usagef("want %s, got %s", names, count(len(args), "argument"))
	}
}

// atMostOne accepts one argument or none.
func atMostOne(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) <= 1 {
			return nil
		}
		return usagef("want at most one %s, got %s", name, count(len(args), "argument"))
	}
}

// count says a number of things: "1 round", "2 rounds".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
