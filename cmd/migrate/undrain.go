package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"migrate/drain"
	"migrate/internal/cordon"
)

const undrainLong = `Brings back to HOST, or to this host, what the last drain of it has moved away
and still runs where it went. Only "migrate drain" on this machine has it on
record. Workloads that ended meanwhile, or were moved on by somebody, are left
out. The cordon of the host is lifted first.

The hosts that have the workloads now must know this machine's certificate with
--allow-operator. An undrain that was interrupted is gone on with by --resume.
With the ID of a drain, that one is taken back.

Exit status:
  0  all of it is back
  1  the command line is wrong
  3  refused before anything was touched
  4  something has not come back; it runs where it was
  5  of a workload it is not known where it runs: see "migrate recover"`

const undrainExample = `  migrate undrain --dry-run
  migrate undrain hostA --max-parallel 4`

func newUndrainCommand(a *app) *cobra.Command {
	var opts drainOptions
	cmd := &cobra.Command{
		Use:     "undrain [HOST|ID]",
		Short:   "Bring back what a drain has moved away",
		Long:    undrainLong,
		Example: undrainExample,
		Args:    atMostOne("HOST or ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who := strings.Join(args, "")
			if opts.resume {
				return runResume(cmd, a, opts, who, drain.KindUndrain)
			}
			return runUndrain(cmd.Context(), a, opts, who)
		},
	}
	bindDrainMoves(a, cmd, &opts)
	cmd.Flags().BoolVar(&opts.resume, "resume", false, "go on with an undrain that was interrupted")
	return cmd
}

func runUndrain(ctx context.Context, a *app, opts drainOptions, who string) error {
	if err := opts.complete(); err != nil {
		return err
	}
	s, err := a.drains()
	if err != nil {
		return err
	}
	r, err := drained(s, who, hostname())
	if err != nil {
		return err
	}
	home := a.home(r)
	back, err := drain.Undrain(r, home, opts.Options)
	if err != nil {
		return &blockedError{fmt.Errorf("drain %s of %s: %w", r.ID, r.Host, err)}
	}
	back.By = hostname()
	d, err := a.drainer(home.Address, opts) // other hosts move, not this one
	if err != nil {
		return err
	}
	if !opts.dryRun {
		if err := d.uncordon(ctx, r.Sources[0].Address, cordon.Wish{Off: true, Drain: back.ID}); err != nil {
			return &blockedError{err}
		}
	}
	return d.carryOut(ctx, back, opts.dryRun)
}

// drained returns the drain of that ID, or the last one of that host that moved
// anything; without either, here is the host.
func drained(s *drain.Store, who, here string) (drain.Record, error) {
	list, err := s.List()
	if err != nil {
		return drain.Record{}, err
	}
	host := cmp.Or(who, here)
	for _, r := range list {
		if r.Kind == drain.KindDrain && (string(r.ID) == who || (r.Host == host || hasAddress(r, host)) && r.Moved() > 0) {
			return r, nil
		}
	}
	return drain.Record{}, &blockedError{advise(fmt.Errorf("no drain of %s that moved anything is on record on this machine", host),
		"run it where \"migrate drain\" ran; see \"migrate history --drains\"")}
}

// home is the host that gets its workloads back, as other hosts reach it.
func (a *app) home(r drain.Record) drain.Host {
	return drain.Host{Name: r.Host, Address: cmp.Or(r.Sources[0].Address, agentAddress(a.runDir), r.Host)}
}

// uncordon lifts the cordon of a host; "" is this one.
func (d *drainer) uncordon(ctx context.Context, address string, w cordon.Wish) error {
	if address == "" {
		return d.app.cordon(w)
	}
	return d.app.remoteHost(d.id, address, d.opts.Move).Uncordon(ctx, w.Drain)
}
