package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"migrate/workload"
)

const labelLong = `Shows or changes the labels of a workload that runs on this host. They go with
it when it moves. NAME=VALUE sets one, NAME- removes it.

A process has to have a label to be part of "migrate drain". Some have a meaning
there: docs/drain.md.

Exit status:
  0  done
  1  the command line is wrong
  3  not root
  4  there is no such workload`

const labelExample = `  migrate label capsule:web app=web priority=10
  migrate label process:4711 app=db anti-affinity=db
  migrate label runc:web priority=10
  migrate label capsule:web priority-`

func newLabelCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "label WORKLOAD [NAME=VALUE|NAME-]...",
		Short:             "Show or change the labels of a workload",
		Long:              labelLong,
		Example:           labelExample,
		ValidArgsFunction: completeSource(a),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("want a WORKLOAD, such as capsule:NAME, process:PID or runc:ID")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runLabel(cmd.Context(), a, args[0], args[1:]) },
	}
}

func runLabel(ctx context.Context, a *app, arg string, changes []string) error {
	if err := needRoot("workloads belong to root"); err != nil {
		return err
	}
	l, err := a.labelled(ctx, arg)
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		if err := relabel(l.Labels, changes); err != nil {
			return err
		}
		if err := workload.SaveLabels(a.stateDir, l); err != nil {
			return err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(l.Labels)) {
		fmt.Fprintf(a.stdout, "%s=%s\n", k, plain(l.Labels[k]))
	}
	return nil
}

// labelled returns a workload that runs here, with its labels.
func (a *app) labelled(ctx context.Context, arg string) (workload.Labelled, error) {
	name, err := parseName(arg)
	if err != nil {
		return workload.Labelled{}, err
	}
	l := workload.Labelled{Name: name, Kind: workload.Capsule}
	rec, err := workload.Load(a.stateDir, name)
	ref, parseErr := workload.Parse(arg)
	switch {
	case err == nil && rec.LiveRoot() != 0:
		l.Kind, l.Root = rec.Kind, rec.Root
	case parseErr == nil && ref.Kind != workload.Capsule:
		l.Kind = ref.Kind
		if l.Root, err = a.unsupervised(ctx, ref); err != nil {
			return l, advise(fmt.Errorf("no %s %s runs on this host: %w", ref.Kind, ref.ID, err), "see \"migrate ps --all\"")
		}
	default:
		return l, advise(fmt.Errorf("no workload %s runs on this host", name), "see \"migrate ps --all\"")
	}
	l.Labels, err = workload.Labels(a.stateDir, name, l.Root)
	if l.Labels == nil {
		l.Labels = map[string]string{}
	}
	return l, err
}

// relabel changes labels by NAME=VALUE and NAME- words.
func relabel(labels map[string]string, changes []string) error {
	for _, c := range changes {
		k, v, set := strings.Cut(c, "=")
		switch {
		case set:
			labels[k] = v
		case strings.HasSuffix(c, "-"):
			delete(labels, strings.TrimSuffix(c, "-"))
		default:
			return usagef("%.80q: want NAME=VALUE, or NAME- to remove it", c)
		}
	}
	if err := workload.ValidLabels(labels); err != nil {
		return &usageError{err}
	}
	return nil
}
