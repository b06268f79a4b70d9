package main

import (
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/source"
	"migrate/transport"
	"migrate/workload"
)

type moveOptions struct {
	move migrate.Options
	criu string
}

const moveLong = `Moves a running workload to another host. It either runs on DST afterwards, or
goes on running where it was.

Without HOST/ in front of SRC the source side runs in this command, which needs
root. Ctrl-C, SIGTERM, SIGHUP and "migrate cancel ID" roll the move back, up to
the commit point. With HOST/, the agent of HOST drives the move; it must know
this host's certificate with --allow-operator.

Memory is copied in rounds while the workload runs. It is frozen for the last one
when the predicted downtime is within --downtime-limit. A workload that writes
faster than it is copied never comes so far, and is frozen for longer once rounds
stop helping, unless you say otherwise:

  --auto-converge           slows it until it comes so far, then lifts the limit
  --timeout-action suspend  goes on until --timeout or --max-rounds ends, for a
                            quieter moment, and freezes it then
  --timeout-action cancel   goes on in the same way and then rolls back: it is
                            only frozen when that is expected to be within the limit

The limit and these can be changed meanwhile with "migrate set".

The result goes to standard output, progress to standard error. With --json,
each event is one object a line on standard output and the last is the result
(docs/json.md).

Exit status:
  0  moved: the workload runs on DST
  1  the command line is wrong
  3  refused before anything was touched; the workload runs on the source
  4  failed or cancelled, and rolled back; the workload runs on the source
  5  in doubt: frozen, see "migrate recover"`

const moveExample = `  migrate move process:4711 hostB
  migrate move capsule:web hostB:7420 --bandwidth 1gbit --clock pause
  migrate move capsule:db hostB --downtime-limit 100ms --auto-converge
  migrate move capsule:db hostB --timeout 5m --timeout-action cancel
  migrate move capsule:db hostB --auto-converge=30,20,80 --streams 4 --verify
  migrate move hostB/capsule:web hostA --json`

func newMoveCommand(a *app) *cobra.Command {
	var opts moveOptions
	cmd := &cobra.Command{
		Use:               "move SRC DST",
		Short:             "Move a running workload to another host",
		Long:              moveLong,
		Example:           moveExample,
		Args:              exactly("SRC DST"),
		ValidArgsFunction: completeSource(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runMove(cmd.Context(), a, opts, args)
		},
	}
	bindMove(a, cmd, &opts)
	return cmd
}

// bindMove adds the flags that a move and its dry form share.
func bindMove(a *app, cmd *cobra.Command, opts *moveOptions) {
	f := cmd.Flags()
	bindOptions(f, &opts.move)
	f.StringVar(&opts.criu, "criu", "", "path of CRIU (default: the first that works; or MIGRATE_CRIU)")
	a.bindJSON(f)
	a.bindVerbosity(f)
	completeOptions(cmd)
}

// errDriven is what cannot be had from another host's agent.
var errDriven = usagef("--criu: the agent of HOST knows its own CRIU")

// job is one SRC and DST as asked for.
type job struct {
	host   string // that drives; "" is this command
	ref    workload.Ref
	target string
	opts   moveOptions
}

func parseJob(opts moveOptions, args []string) (job, error) {
	host, ref, err := workload.ParseSource(args[0])
	if err != nil {
		return job{}, &usageError{err}
	}
	if err := checkOptions(opts.move); err != nil {
		return job{}, err
	}
	if host != "" && opts.criu != "" {
		return job{}, errDriven
	}
	return job{host, ref, args[1], opts}, checkTarget(args[1])
}

func runMove(ctx context.Context, a *app, opts moveOptions, args []string) error {
	j, err := parseJob(opts, args)
	if err != nil {
		return err
	}
	defer a.spooled()()
	p := a.printer()
	ctx, stop := interruptible(ctx, source.ErrCancelled, func(n int) {
		if n == 1 {
			p.note("cancelling; past the commit point the move goes on to its end")
			return
		}
		p.note("already rolling back: the workload runs on once that is done")
	})
	defer stop()
	report, err := j.move(ctx, a, p)
	if err != nil {
		return err
	}
	p.result(report)
	return end(statusCode(report.Status))
}

// move moves the workload, here or through another host's agent. Without a
// report nothing was touched, unless the error says otherwise.
func (j job) move(ctx context.Context, a *app, p printer) (*migrate.Report, error) {
	emit := func(e migrate.Event) {
		if e.Report == nil { // told by the caller
			p.event(e)
		}
	}
	if j.host != "" {
		return a.drive(ctx, j, false, emit)
	}
	mover, err := a.mover(j.opts.criu)
	if err != nil {
		return nil, err
	}
	id := migrate.NewID()
	a.audited("move", j.ref.String(), id, j.target, nil)
	return mover.Move(ctx, source.Request{ID: id, Ref: j.ref, Target: j.target, Options: j.opts.move, Emit: emit}), nil
}

// mover returns this host's source side.
func (a *app) mover(criu string) (*source.Mover, error) {
	if err := needRoot("a move takes a process tree apart"); err != nil {
		return nil, err
	}
	id, err := a.identity()
	if err != nil {
		return nil, &blockedError{err}
	}
	m, err := source.New(source.Config{
		Identity: id, StateDir: a.stateDir, RunDir: a.runDir, CRIU: criu,
		ReplyTo: agentAddress(a.runDir), IdleTimeout: idleTimeout(), Logger: a.logger(),
	})
	if err != nil {
		return nil, &blockedError{err}
	}
	return m, nil
}

// drive has the agent of another host move the workload.
func (a *app) drive(ctx context.Context, j job, checkOnly bool, emit func(migrate.Event)) (*migrate.Report, error) {
	id, err := a.identity()
	if err != nil {
		return nil, &blockedError{err}
	}
	d := driver{
		address: source.Address(j.host), config: transport.Config{Identity: id, Logger: a.logger()},
		patience: j.opts.move.CommitTimeout, emit: emit,
	}
	return d.drive(ctx, transport.Drive{Source: j.ref.String(), Target: j.target, Options: j.opts.move, CheckOnly: checkOnly})
}

// checkTarget refuses what can be no address before anything is done.
func checkTarget(s string) error {
	if kind, _, err := workload.ParseSource(s); err == nil && kind == "" {
		return &usageError{errors.New("the target is a host, the workload comes first")}
	}
	host, port, err := net.SplitHostPort(source.Address(s))
	if n, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || n == 0 || host == "" || len(s) > 300 {
		return usagef("target %.80q: want HOST or HOST:PORT", s)
	}
	return nil
}
