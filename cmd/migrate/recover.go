package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/journal"
	"migrate/source"
	"migrate/supervisor"
)

type recoverOptions struct {
	decide string
	yes    bool
}

// The operator's words.
const (
	runHere     = "run-here"
	discardHere = "discard-here"
)

const recoverLong = `Puts right what dead processes left of migrations on this host: of all, or of
ID. It may be called at any time and again and again; a running agent does the
same by itself every few seconds.

Before the commit point there is nothing to decide. The workload was never let go
of on the source: it is thawed there, and the target drops what it has.

At the commit point the source writes down that its copy will never run again,
tells the target, and the target lets its copy run. If hosts or the network fail
just then, one side can be left not knowing. Such a migration is IN DOUBT. Both
copies stay frozen, because one of them may be running, or about to; two running
copies of one workload would be worse than none. As soon as both hosts can talk
again it resolves itself, on "migrate recover" or through the agents. So first
get the other host, its agent and the network up again, and wait.

Only if the other host will never come back must a person decide, with --decide,
and this is what each word means:

  --decide run-here      The copy on this host runs. Say it only if you are
                         certain that the other host's copy does not run and never
                         will: the machine is destroyed, or its disk erased, or
                         the workload killed there and its journal entry decided.
                         If you are wrong, two copies run, write to the same
                         places and speak to the same clients.
  --decide discard-here  The copy on this host is destroyed. Say it only if you
                         know that the workload runs on the other host, or if you
                         no longer want it. If you are wrong, it is lost.

Where to type it, after "migrate status" on each host that can still be reached:

  The target is gone for good     on the source: migrate recover ID --decide run-here
  The source is gone for good     on the target: migrate recover ID --decide run-here
  Both hosts live, but will not   on the one to keep it: --decide run-here, after
  be able to talk again           on the other one: --decide discard-here. In this
                                  order: first discard-here, then run-here.

A host that was believed dead, and comes back with its copy still frozen, asks
this one, hears the decision and removes its copy. On the target the agent holds
the copy and has to run for a decision.

Exit status:
  0  nothing is left to do, here
  1  the command line is wrong
  3  not root, or no certificate
  4  something could not be put right
  5  something stays in doubt`

const recoverExample = `  migrate recover
  migrate recover 0123456789abcdef
  migrate recover 0123456789abcdef --decide run-here`

func newRecoverCommand(a *app) *cobra.Command {
	var opts recoverOptions
	cmd := &cobra.Command{
		Use:               "recover [ID]",
		Short:             "Put right what a crash left, and explain what is in doubt",
		Long:              recoverLong,
		Example:           recoverExample,
		Args:              atMostOne("ID"),
		ValidArgsFunction: completeID(a, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRecover(cmd.Context(), a, opts, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.decide, "decide", "", "decide by hand what is in doubt: run-here or discard-here")
	f.BoolVar(&opts.yes, "yes", false, "do not ask whether --decide is meant")
	a.bindJSON(f)
	completeWords(cmd, "decide", runHere+", "+discardHere)
	return cmd
}

func (o recoverOptions) check(args []string) error {
	switch {
	case o.decide != "" && o.decide != runHere && o.decide != discardHere:
		return usagef("--decide %.40q: want %s or %s", o.decide, runHere, discardHere)
	case o.decide != "" && len(args) == 0:
		return usagef("--decide: want the ID of one migration")
	case o.yes && o.decide == "":
		return usagef("--yes belongs to --decide")
	}
	return nil
}

func runRecover(ctx context.Context, a *app, opts recoverOptions, args []string) error {
	if err := opts.check(args); err != nil {
		return err
	}
	if err := needRoot("frozen processes are let run or killed"); err != nil {
		return err
	}
	if err := supervisor.Sweep(a.stateDir, a.runDir); err != nil {
		return err
	}
	r := recovery{app: a, p: a.printer()}
	list, err := r.records(args)
	if err != nil {
		return err
	}
	if opts.decide != "" {
		return r.decide(ctx, list, opts)
	}
	for _, rec := range list {
		r.one(ctx, rec)
	}
	return r.tell()
}

// recovery gathers what was made of each record.
type recovery struct {
	*app
	p     printer
	mover *source.Mover // made when needed: there may be nothing to ask anybody
	rows  []row
	code  int
}

// outcomeRow is what recovery made of one side of one migration.
type outcomeRow struct {
	Type string `json:"type"` // always "outcome"
	source.Outcome
}

func (r outcomeRow) cells() []string {
	return []string{string(r.ID), string(r.Side), r.Workload, string(r.Owner), r.Text}
}

// worse remembers the exit status that matters most.
func (r *recovery) worse(code int) { r.code = max(r.code, code) }

func (r *recovery) add(o source.Outcome) {
	if o.Owner == migrate.OwnerInDoubt {
		r.worse(codeInDoubt)
	}
	r.rows = append(r.rows, outcomeRow{"outcome", o})
}

func (r *recovery) tell() error {
	r.p.list([]string{"ID", "SIDE", "WORKLOAD", "OWNER", "WHAT"}, r.rows)
	return end(r.code)
}

// records returns the record of an ID, or all that are not over. What cannot
// be read cannot be decided either.
func (r *recovery) records(args []string) ([]journal.Record, error) {
	if len(args) > 0 {
		_, list, err := r.app.records(r.p, args[0])
		return list, err
	}
	j, err := r.journal()
	if err != nil {
		return nil, err
	}
	list, err := j.List()
	for _, d := range damaged(err) {
		r.worse(codeInDoubt)
		r.p.note("%v", d)
		r.p.note("hint: compare with the journal of the other host; see \"migrate recover --help\"")
	}
	if err != nil && len(damaged(err)) == 0 && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var open []journal.Record
	for _, rec := range list {
		if !rec.Phase.Over() {
			open = append(open, rec)
		}
	}
	return open, nil
}

func (r *recovery) one(ctx context.Context, rec journal.Record) {
	if rec.Side == migrate.Target {
		r.add(r.target(rec))
		return
	}
	o, err := r.source(ctx, rec)
	if err != nil {
		r.worse(codeFailed)
		r.p.failure(failureOf(fmt.Errorf("migration %s: %w", rec.ID, err)), codeFailed)
		return
	}
	r.add(o)
}

func (r *recovery) source(ctx context.Context, rec journal.Record) (source.Outcome, error) {
	m, err := r.ownMover()
	if err != nil {
		return source.Outcome{}, err
	}
	o, err := patiently(ctx, func() (source.Outcome, error) { return m.Recover(ctx, rec.ID) })
	if !errors.Is(err, journal.ErrBusy) {
		return o, err
	}
	return outcomeOf(rec, "the move goes on: see \"migrate status "+string(rec.ID)+"\""), nil
}

// busyPatience is longer than an agent holds a record at a time while it asks
// a silent peer.
const busyPatience = 10 * time.Second

// patiently repeats f while another process holds the record.
func patiently(ctx context.Context, f func() (source.Outcome, error)) (source.Outcome, error) {
	for until := time.Now().Add(busyPatience); ; {
		o, err := f()
		if !errors.Is(err, journal.ErrBusy) || ctx.Err() != nil || time.Now().After(until) {
			return o, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *recovery) ownMover() (*source.Mover, error) {
	if r.mover != nil {
		return r.mover, nil
	}
	var err error
	r.mover, err = r.app.mover("")
	return r.mover, err
}

// target tells how a migration to this host stands. The agent does what can be
// done about it, at its start and from then on.
func (r *recovery) target(rec journal.Record) source.Outcome {
	_, err := askAgent(r.runDir, localRequest{Op: "status"})
	switch {
	case rec.Phase.Over():
		return outcomeOf(rec, "nothing to do: it is over")
	case errors.Is(err, errNoAgent):
		r.worse(codeFailed)
		return outcomeOf(rec, "no agent runs on this host: start \"migrate agent\", which goes on with it")
	case err != nil:
		r.worse(codeFailed)
		return outcomeOf(rec, fmt.Sprintf("the agent does not answer: %v", err))
	case rec.Phase == migrate.Held:
		return outcomeOf(rec, fmt.Sprintf("in doubt: the copy here is held until %s tells the verdict; the agent keeps asking", peerOf(rec)))
	}
	return outcomeOf(rec, "the agent works on it")
}

func outcomeOf(rec journal.Record, text string) source.Outcome {
	return source.Outcome{ID: rec.ID, Side: rec.Side, Workload: rec.Workload, Phase: rec.Phase, Owner: ownerOf(rec), Text: text}
}
