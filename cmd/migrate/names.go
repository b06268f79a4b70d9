package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"migrate/workload"
)

// parseName reads how a workload of this host is called: NAME, capsule:NAME,
// or process:PID, runc:ID or crun:ID for one that arrived.
func parseName(s string) (string, error) {
	if strings.Contains(s, ":") {
		ref, err := workload.Parse(s)
		if err != nil {
			return "", &usageError{err}
		}
		return ref.Name(), nil
	}
	if err := workload.ValidName(s); err != nil {
		return "", &usageError{err}
	}
	return s, nil
}

// workload returns the record of a workload of this host.
func (a *app) workload(arg string) (workload.Record, error) {
	name, err := parseName(arg)
	if err != nil {
		return workload.Record{}, err
	}
	rec, err := workload.Load(a.stateDir, name)
	if isMissing(err) {
		err = advise(fmt.Errorf("no workload %s on this host", name), "see \"migrate ps --all\"")
	}
	return rec, err
}

// completeNames offers the workloads of this host.
func completeNames(a *app) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		list, _ := workload.List(a.stateDir) // what there is of it
		var names []string
		for _, r := range list {
			names = append(names, cobra.CompletionWithDesc(r.Name, strings.Join(r.Command, " ")))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeName is completeNames for a command that takes one.
func completeName(a *app) cobra.CompletionFunc {
	return firstOnly(completeNames(a))
}

// completeSource offers what can be moved, as a first argument.
func completeSource(a *app) cobra.CompletionFunc {
	return firstOnly(func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		list, _ := a.discover(cmd.Context())
		var refs []string
		for _, f := range list {
			refs = append(refs, f.Ref.String())
		}
		for _, k := range workload.Kinds {
			refs = append(refs, string(k)+":")
		}
		return refs, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
}

// completeID offers the migrations of this host, all or those under way.
func completeID(a *app, all bool) cobra.CompletionFunc {
	return firstOnly(func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var ids []string
		j, err := a.journal()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, _ := j.List()
		for _, r := range list {
			if all || !r.Phase.Over() {
				ids = append(ids, cobra.CompletionWithDesc(string(r.ID), fmt.Sprintf("%s, %s", r.Workload, r.Phase)))
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	})
}

func firstOnly(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, word)
	}
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
