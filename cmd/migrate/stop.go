package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"migrate/supervisor"
	"migrate/workload"
	"migrate/workload/cgroup"
)

type stopOptions struct {
	signal  string
	timeout time.Duration
	remove  bool
}

const stopLong = `Stops workloads of this host: sends a signal to the first process of each, and
kills what is left of it after a while. A workload that a migration has not let
go of is not touched.

Exit status:
  0  all have ended
  1  the command line is wrong
  3  not root
  4  some have not; the others have`

const stopExample = `  migrate stop web
  migrate stop --signal INT --timeout 30s --rm web job`

func newStopCommand(a *app) *cobra.Command {
	var opts stopOptions
	cmd := &cobra.Command{
		Use:     "stop NAME...",
		Short:   "Stop workloads",
		Long:    stopLong,
		Example: stopExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("want the NAME of a workload")
			}
			return nil
		},
		ValidArgsFunction: completeNames(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runStop(cmd.Context(), a, opts, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.signal, "signal", "TERM", "signal to begin with, by name or number")
	f.DurationVar(&opts.timeout, "timeout", supervisor.StopTimeout, "kill it after this time; 0 is at once")
	f.BoolVar(&opts.remove, "rm", false, "also remove its record and logs")
	return cmd
}

func runStop(ctx context.Context, a *app, opts stopOptions, args []string) error {
	sig, err := parseSignal(opts.signal)
	if err != nil {
		return err
	}
	if opts.timeout < 0 {
		return usagef("--timeout: must not be negative")
	}
	if err := needRoot("workloads belong to root"); err != nil {
		return err
	}
	var problems *multierror.Error
	for _, arg := range args {
		err := a.stop(ctx, arg, sig, opts)
		a.audited("stop", arg, "", "", err)
		if err != nil {
			problems = multierror.Append(problems, err)
			continue
		}
		fmt.Fprintln(a.stdout, arg)
	}
	switch {
	case problems == nil:
		return nil
	case problems.Len() == 1:
		return problems.Errors[0]
	}
	problems.ErrorFormat = inOneLine
	return problems
}

func inOneLine(list []error) string {
	texts := make([]string, len(list))
	for i, err := range list {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// parseSignal reads "TERM", "SIGTERM" or "15".
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, usagef("--signal %.40q: no such signal", s)
}

// stop ends one workload; one that has ended already is no error.
func (a *app) stop(ctx context.Context, arg string, sig syscall.Signal, opts stopOptions) error {
	rec, err := a.workload(arg)
	if err != nil {
		return err
	}
	if err := a.notMigrating(rec.Name); err != nil {
		return err
	}
	if rec.LiveRoot() != 0 {
		if err := a.endWorkload(ctx, rec, sig, opts.timeout); err != nil {
			return fmt.Errorf("stopping %s: %w", rec.Name, err)
		}
	}
	if opts.remove {
		if !waitGone(ctx, rec.Supervisor, recordWait) {
			return fmt.Errorf("removing %s: its supervisor does not end", rec.Name)
		}
		return workload.Remove(a.stateDir, rec.Name)
	}
	return nil
}

func (a *app) endWorkload(ctx context.Context, rec workload.Record, sig syscall.Signal, timeout time.Duration) error {
	s, err := supervisor.Connect(a.runDir, rec.Name)
	if errors.Is(err, supervisor.ErrGone) {
		return endOrphan(ctx, rec, sig, timeout)
	}
	if err != nil {
		return err
	}
	defer s.Close()
	if timeout == 0 {
		timeout = -1 // there, zero is the default
	}
	_, err = s.Stop(ctx, timeout, sig)
	if errors.Is(err, supervisor.ErrGone) && rec.LiveRoot() == 0 {
		return nil // it ended meanwhile, and its supervisor with it
	}
	return err
}

// endOrphan ends a workload whose supervisor has died.
func endOrphan(ctx context.Context, rec workload.Record, sig syscall.Signal, timeout time.Duration) error {
	root := rec.LiveRoot()
	if root == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(root, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if rec.LiveRoot() != root { // the number may be another's by now
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return err
	}
	if waitGone(ctx, rec.Root, timeout) {
		return nil
	}
	if g, err := cgroup.Open(rec.Cgroup); rec.Cgroup != "" && err == nil {
		if err := g.Kill(ctx); err != nil {
			return err
		}
	} else if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	if !waitGone(ctx, rec.Root, supervisor.StopTimeout) {
		return errors.New("it does not end")
	}
	return nil
}

// waitGone reports whether a process ends in time.
func waitGone(ctx context.Context, p workload.Live, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return p.AwaitEnd(ctx) == nil
}
