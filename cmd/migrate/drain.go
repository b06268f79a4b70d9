package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"migrate"
	"migrate/drain"
	"migrate/source"
	"migrate/transport/pki"
)

const drainLong = `Moves every workload away from HOST, or from this host, to hosts that can take
them, and cordons it: until "migrate uncordon" it receives none. Workloads are
those of "migrate ps" that run, and processes that "migrate label" has given
labels to.

First a plan is made: which workload goes where, and why. Each pair that comes
into question goes through the preflight of a move. With --dry-run the plan is
printed, and nothing is changed. If something cannot be moved live, the drain
does not begin, unless --action says to stop it or to leave it there.

Then --max-parallel moves at a time are made. One that fails is tried again with
another target. What a drain does is on record on the machine where this command
runs, before it does it: after a crash of that machine or of an agent,
"migrate drain --resume" goes on. Nothing is moved twice. "migrate undrain"
brings back what has left.

With HOST its agent moves the workloads; it must know this machine's certificate
with --allow-operator, the targets with --allow or --allow-operator. Ctrl-C rolls
back what is on its way and begins nothing more.

Exit status:
  0  nothing that was to leave is on the host any more
  1  the command line is wrong
  3  refused before anything was touched: something cannot be moved, or another
     drain is at work
  4  something still runs on the host: it failed, was skipped, or was cancelled
  5  of a workload it is not known where it runs: see "migrate recover"`

const drainExample = `  migrate drain --to hostB,hostC --dry-run
  migrate drain hostA --inventory hosts.yaml --max-parallel 4 --bandwidth 1gbit
  migrate drain hostA --to hostB --selector app=web --action skip
  migrate drain hostA --to hostB --action stop --action capsule:db=live
  migrate drain hostA --resume`

func newDrainCommand(a *app) *cobra.Command {
	var opts drainOptions
	cmd := &cobra.Command{
		Use:     "drain [HOST]",
		Short:   "Move every workload away from a host",
		Long:    drainLong,
		Example: drainExample,
		Args:    atMostOne("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who := strings.Join(args, "")
			if opts.resume {
				return runResume(cmd, a, opts, who, drain.KindDrain)
			}
			return runDrain(cmd.Context(), a, opts, who)
		},
	}
	bindDrainMoves(a, cmd, &opts)
	bindDrain(cmd, &opts)
	return cmd
}

func runDrain(ctx context.Context, a *app, opts drainOptions, host string) error {
	if err := opts.complete(); err != nil {
		return err
	}
	targets, err := opts.targets()
	if err != nil {
		return err
	}
	if host != "" {
		if err := checkTarget(host); err != nil {
			return err
		}
	}
	d, err := a.drainer(host, opts)
	if err != nil {
		return err
	}
	r := drain.Record{
		ID: migrate.NewID(), Kind: drain.KindDrain, Status: drain.Planning, Started: time.Now(), Options: opts.Options,
		Targets: targets, Items: []drain.Item{},
	}
	if r.Host, err = d.nameOf(ctx, host); err != nil {
		return err
	}
	r.By, _ = os.Hostname() // for people
	r.Sources = []drain.Host{{Name: r.Host, Address: host}}
	return d.carryOut(ctx, r, opts.dryRun)
}

// drainer carries out drains for a command.
type drainer struct {
	app   *app
	id    pki.Identity
	local *localHost // nil if every host is asked by its agent
	opts  drainOptions
}

// drainer returns one for a drain of host; "" is this one, whose workloads this
// process moves itself.
func (a *app) drainer(host string, opts drainOptions) (*drainer, error) {
	d := &drainer{app: a, opts: opts}
	var err error
	if d.id, err = a.identity(); err != nil {
		return nil, &blockedError{err}
	}
	if host != "" {
		if opts.criu != "" {
			return nil, errDriven
		}
		return d, nil
	}
	mover, err := a.mover(opts.criu)
	if err != nil {
		return nil, err
	}
	d.local = &localHost{a, mover}
	return d, nil
}

func (d *drainer) source(h drain.Host) drain.Source {
	if h.Address == "" {
		return d.local
	}
	return d.app.remoteHost(d.id, h.Address, d.opts.Move)
}

func (d *drainer) target(h drain.Host) drain.Target {
	return remoteTarget{d.app.remoteHost(d.id, h.Address, d.opts.Move)}
}

func (d *drainer) config(w drain.Watcher) drain.Config {
	return drain.Config{Source: d.source, Target: d.target, Watch: w, ClaimTTL: claimTTL(), Patience: 2 * d.opts.Move.CommitTimeout}
}

// claimTTL is how long a claim or a reservation outlives a drain that died; the
// environment may shorten it for tests.
func claimTTL() time.Duration {
	d, err := time.ParseDuration(os.Getenv("MIGRATE_CLAIM_TTL"))
	if err != nil || d < 3*time.Second {
		return time.Minute
	}
	return d
}

// nameOf returns what the host calls itself.
func (d *drainer) nameOf(ctx context.Context, address string) (string, error) {
	st, err := d.source(drain.Host{Address: address}).State(ctx, false)
	if err != nil {
		return "", &blockedError{err}
	}
	return st.Host.Name, nil
}

// drains opens the records of drains that commands on this machine made.
func (a *app) drains() (*drain.Store, error) {
	return drain.Open(filepath.Join(a.stateDir, "drains"))
}

// carryOut carries out a new drain, or prints its plan.
func (d *drainer) carryOut(ctx context.Context, r drain.Record, dryRun bool) error {
	defer d.app.spooled()()
	w := d.app.drainPrinter()
	ctx, stop := interruptible(ctx, drain.ErrCancelled, w.interrupted)
	defer stop()
	if dryRun {
		if err := drain.Plan(ctx, d.config(w), &r); err != nil {
			return err
		}
		w.plan(&r)
		return end(planCode(&r))
	}
	s, err := d.app.drains()
	if err != nil {
		return err
	}
	e, err := s.Begin(r)
	if err != nil {
		return err
	}
	defer e.Close()
	d.app.audited(r.Kind, "", r.ID, r.Host, nil)
	return d.run(ctx, e, w)
}

// planCode is the exit status for a plan: whether the drain would begin.
func planCode(r *drain.Record) int {
	if r.Blocked() > 0 {
		return codeBlocked
	}
	return codeOK
}

func (d *drainer) run(ctx context.Context, e *drain.Entry, w *drainPrinter) error {
	r, err := drain.Run(ctx, d.config(w), e)
	if err != nil && r.Status == drain.Blocked {
		return &blockedError{err}
	}
	if err != nil {
		return err
	}
	w.result(r)
	return end(drainCode(r.Status))
}

// drainCode is the exit status for how a drain ended.
func drainCode(s drain.Status) int {
	switch s {
	case drain.Completed:
		return codeOK
	case drain.Blocked:
		return codeBlocked
	case drain.InDoubt:
		return codeInDoubt
	}
	return codeFailed
}

// runResume goes on with a drain or an undrain; who is its ID, or its host.
func runResume(cmd *cobra.Command, a *app, opts drainOptions, who, kind string) error {
	if err := onlyResume(cmd); err != nil {
		return err
	}
	s, err := a.drains()
	if err != nil {
		return err
	}
	r, err := interrupted(s, who, kind, hostname())
	if err != nil {
		return err
	}
	e, err := s.Take(r.ID)
	if err != nil {
		return &blockedError{err}
	}
	defer e.Close()
	a.audited(kind, "", r.ID, r.Host, nil)
	opts.Options = e.Record.Options
	local := ""
	for _, h := range e.Record.Sources {
		local = cmp.Or(local, h.Address)
	}
	d, err := a.drainer(local, opts)
	if err != nil {
		return err
	}
	defer a.spooled()()
	w := a.drainPrinter()
	ctx, stop := interruptible(cmd.Context(), drain.ErrCancelled, w.interrupted)
	defer stop()
	return d.run(ctx, e, w)
}

// onlyResume refuses flags that a drain had when it began.
func onlyResume(cmd *cobra.Command) (err error) {
	cmd.LocalNonPersistentFlags().Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "resume", "json", "quiet", "verbose", "criu":
		default:
			err = usagef("--%s: what is gone on with keeps the settings that it began with", f.Name)
		}
	})
	return err
}

func hostname() string {
	name, _ := os.Hostname() // nobody has a drain of ""
	return name
}

// interrupted returns the drain of that ID, or the last one of that host if it
// can be gone on with. Without either, here is the host.
func interrupted(s *drain.Store, who, kind, here string) (drain.Record, error) {
	list, err := s.List()
	if err != nil {
		return drain.Record{}, err
	}
	host := cmp.Or(who, here)
	for _, r := range list {
		if r.Kind != kind || string(r.ID) != who && r.Host != host && !hasAddress(r, host) {
			continue
		}
		if r.Status == drain.Completed || r.Status == drain.Blocked {
			return r, fmt.Errorf("%s %s of %s is over (%s)", r.Kind, r.ID, r.Host, r.Status)
		}
		return r, nil
	}
	return drain.Record{}, advise(fmt.Errorf("no %s of %s is on record on this machine", kind, host), "see \"migrate history --drains\"; records are where the command ran")
}

func hasAddress(r drain.Record, host string) bool {
	for _, h := range r.Sources {
		if h.Address != "" && source.Address(h.Address) == source.Address(host) {
			return true
		}
	}
	return false
}
