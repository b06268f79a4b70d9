package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"migrate/drain"
	"migrate/supervisor"
	"migrate/workload"
)

// drainOptions are the flags of drain and undrain.
type drainOptions struct {
	drain.Options
	moveTimeout    time.Duration
	to             []string
	inventory      string
	targetSelector string
	actions        []string
	dryRun, resume bool
	criu           string
}

// bindDrainMoves adds the flags of how moves are carried out, which drain and
// undrain share. Of a move's own flags two mean the whole drain.
func bindDrainMoves(a *app, cmd *cobra.Command, o *drainOptions) {
	f := cmd.Flags()
	moves := pflag.NewFlagSet("", pflag.ContinueOnError)
	bindOptions(moves, &o.Move)
	moves.VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "bandwidth" && flag.Name != "timeout" {
			f.AddFlag(flag)
		}
	})
	f.Var((*rateFlag)(&o.Bandwidth), "bandwidth", "cap on the wire of all moves together, such as 100MiB (a second) or 1gbit; 0 is none")
	f.DurationVar(&o.Timeout, "timeout", 0, "begin no more moves and roll back those under way after this time; 0 is never")
	f.DurationVar(&o.moveTimeout, "move-timeout", o.Move.Timeout, "roll one move back if its commit point is not reached in this time")
	f.StringVarP(&o.Selector, "selector", "l", "", "only workloads with these labels: k=v, k!=v, k, !k, separated by commas")
	f.StringSliceVar(&o.Kinds, "kind", nil, "only workloads of this kind: "+joinKinds())
	f.StringSliceVar(&o.Exclude, "exclude", nil, "not this workload, by KIND:ID or name; may be repeated")
	f.StringVar(&o.Order, "order", drain.Smallest, "which moves first: smallest, largest, priority (by the label of that name) or name")
	f.IntVar(&o.MaxParallel, "max-parallel", 2, "moves under way at a time, at most")
	f.IntVar(&o.Retries, "retries", 2, "times that a failed move is tried again, with another target if one can take it")
	f.StringVar(&o.OnFailure, "on-failure", drain.Continue, "when a workload could not be moved after all tries: continue with the others, or stop")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan, and change nothing on any host")
	f.StringVar(&o.criu, "criu", "", "path of CRIU (default: the first that works; or MIGRATE_CRIU)")
	a.bindJSON(f)
	a.bindVerbosity(f)
	completeOptions(cmd)
	completeWords(cmd, "kind", joinKinds())
	completeWords(cmd, "order", "smallest, largest, priority, name")
	completeWords(cmd, "on-failure", "continue, stop")
	o.Strategy, o.Action, o.StopTimeout = drain.Spread, drain.Live, supervisor.StopTimeout
}

// bindDrain adds the flags that only drain has.
func bindDrain(cmd *cobra.Command, o *drainOptions) {
	f := cmd.Flags()
	f.StringSliceVar(&o.to, "to", nil, "HOST or HOST:PORT to move to; may be repeated, or have several with commas between")
	f.StringVar(&o.inventory, "inventory", "", "YAML `file` of hosts to move to, with labels and capacities (docs/drain.md)")
	f.StringVar(&o.targetSelector, "target-selector", "", "only hosts of the inventory with these labels")
	f.StringVar((*string)(&o.Strategy), "strategy", string(o.Strategy), "spread over the targets, or pack them one after the other")
	f.IntVar(&o.MaxPerTarget, "max-per-target", 0, "moves under way to one target at a time, at most; 0 is no limit")
	f.StringArrayVar(&o.actions, "action", nil, "what to do with what cannot be moved live: live (do not begin), stop or skip; or WORKLOAD=ACTION; may be repeated")
	f.DurationVar(&o.StopTimeout, "stop-timeout", o.StopTimeout, "kill a workload that is to stop after this time")
	f.StringVar(&o.Reason, "reason", "", "for the cordon, in your words")
	f.BoolVar(&o.resume, "resume", false, "go on with a drain that was interrupted: the last one of HOST, or the one of that ID")
	completeWords(cmd, "strategy", "spread, pack")
	completeWords(cmd, "action", "live, stop, skip")
}

// complete checks what the flags say together.
func (o *drainOptions) complete() error {
	o.Move.Timeout = o.moveTimeout
	if err := checkOptions(o.Move); err != nil {
		return err
	}
	for _, k := range o.Kinds {
		if !slices.Contains(workload.Kinds, workload.Kind(k)) {
			return usagef("--kind %.40q: want one of %s", k, joinKinds())
		}
	}
	if err := o.parseActions(); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return usagef("--%s", strings.ReplaceAll(err.Error(), "\n", "; --"))
	}
	return nil
}

func joinKinds() string { return join(workload.Kinds) }

func (o *drainOptions) parseActions() error {
	for _, s := range o.actions {
		who, action, one := strings.Cut(s, "=")
		if !one {
			o.Action = drain.Action(s)
			continue
		}
		if o.Actions == nil {
			o.Actions = map[string]drain.Action{}
		}
		o.Actions[who] = drain.Action(action)
	}
	return nil
}

// targets returns the hosts that may be moved to.
func (o *drainOptions) targets() ([]drain.Host, error) {
	selector, err := drain.ParseSelector(o.targetSelector)
	switch {
	case err != nil:
		return nil, usagef("--target-selector: %w", err)
	case len(o.to) > 0 && o.inventory != "":
		return nil, usagef("--to and --inventory: want one of them")
	case len(o.to) > 0 && selector != nil:
		return nil, usagef("--target-selector: hosts have labels in an --inventory only")
	case len(o.to) > 0:
		for _, h := range o.to {
			if err := checkTarget(h); err != nil {
				return nil, err
			}
		}
		return drain.Hosts(o.to), nil
	case o.inventory == "":
		return nil, usagef("want --to HOST, or --inventory FILE")
	}
	list, err := readInventory(o.inventory)
	if err != nil {
		return nil, err
	}
	if list = drain.Chosen(list, selector); len(list) == 0 {
		return nil, usagef("--target-selector %s: no host of %s has these labels", o.targetSelector, o.inventory)
	}
	return list, nil
}

// readInventory reads the hosts of a file.
func readInventory(file string) ([]drain.Host, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, &usageError{fmt.Errorf("inventory: %w", err)}
	}
	list, err := drain.ParseInventory(b, parseSize)
	if err != nil {
		return nil, &usageError{fmt.Errorf("inventory %s: %w", file, err)}
	}
	for _, h := range list {
		if err := checkTarget(h.Address); err != nil {
			return nil, fmt.Errorf("inventory %s: host %s: %w", file, h.Name, err)
		}
	}
	return list, nil
}
