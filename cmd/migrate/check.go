package main

import (
	"context"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/source"
)

const checkLong = `Runs the preflight of a move and moves nothing: every blocker and warning at
once, of both hosts.

Exit status:
  0  nothing is in the way
  1  the command line is wrong
  3  something is in the way
  4  the check itself failed`

const checkExample = `  migrate check process:4711 hostB
  migrate check hostB/capsule:web hostA --json`

func newCheckCommand(a *app) *cobra.Command {
	var opts moveOptions
	cmd := &cobra.Command{
		Use:               "check SRC DST",
		Short:             "Tell what is in the way of a move",
		Long:              checkLong,
		Example:           checkExample,
		Args:              exactly("SRC DST"),
		ValidArgsFunction: completeSource(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCheck(cmd.Context(), a, opts, args)
		},
	}
	bindMove(a, cmd, &opts)
	return cmd
}

func runCheck(ctx context.Context, a *app, opts moveOptions, args []string) error {
	j, err := parseJob(opts, args)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(ctx, source.ErrCancelled, func(int) {})
	defer stop()
	c, err := j.check(ctx, a)
	if err != nil {
		return err
	}
	a.printer().check(c)
	if !c.Movable {
		return end(codeBlocked)
	}
	return nil
}

func (j job) check(ctx context.Context, a *app) (checkResult, error) {
	if j.host != "" {
		r, err := a.drive(ctx, j, true, func(migrate.Event) {})
		if err != nil {
			return checkResult{}, err
		}
		return newCheck(j, r.SourceHost, r.TargetHost, r.Files, r.Blockers, r.Warnings), nil
	}
	mover, err := a.mover(j.opts.criu)
	if err != nil {
		return checkResult{}, err
	}
	c, err := mover.Check(ctx, source.Request{Ref: j.ref, Target: j.target, Options: j.opts.move})
	return newCheck(j, c.Source.Name, c.Target.Name, c.Files, c.Blockers, c.Warnings), err
}

func newCheck(j job, src, dst string, files []migrate.Tree, blockers, warnings []migrate.Finding) checkResult {
	return checkResult{
		Type: "check", Workload: j.ref.String(), Source: src, Target: dst, Movable: len(blockers) == 0,
		Files: files, Blockers: orEmpty(blockers), Warnings: orEmpty(warnings),
	}
}

// orEmpty makes "none" an empty array in JSON.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
