package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"migrate"
	"migrate/internal/cordon"
	"migrate/supervisor"
	"migrate/workload"
)

type runOptions struct {
	name    string
	env     []string
	workdir string
	labels  map[string]string
	spec    supervisor.RunSpec
}

const runLong = `Starts a program as a capsule: with PID namespace, cgroup, session and log files
of its own, so that it can be moved to any host, again and again. It sees this
host's files, and the network unless --net is given. The environment of this
command is handed on.

A capsule does not depend on this command or the agent: its parent is a
supervisor of its own. Output goes to log files, see "migrate logs"; with --tty
it has a terminal, see "migrate attach". The name is printed once it runs.

Exit status:
  0  it runs
  1  the command line is wrong
  3  not root
  4  it could not be started, or the name is taken`

const runExample = `  migrate run --name web -- /usr/bin/server --port 8080
  migrate run --name shell --tty -- bash
  migrate run --name job --env DEBUG=1 --workdir /srv/job -- ./job input.txt`

func newRunCommand(a *app) *cobra.Command {
	var opts runOptions
	cmd := &cobra.Command{
		Use:     "run --name NAME -- CMD [ARG...]",
		Short:   "Start a program that can be moved",
		Long:    runLong,
		Example: runExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("want a program to run, after --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRun(cmd.Context(), a, opts, args)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVar(&opts.name, "name", "", "name of the capsule, unique on the host (required)")
	f.StringArrayVar(&opts.env, "env", nil, "add K=V to the environment; may be repeated")
	f.StringVar(&opts.workdir, "workdir", "", "working directory (default: the current one)")
	f.StringToStringVar(&opts.labels, "label", nil, "K=V for \"migrate label\" and \"migrate drain\"; may be repeated")
	f.BoolVar(&opts.spec.TTY, "tty", false, "give it a terminal of its own")
	f.BoolVar(&opts.spec.Stdin, "stdin", false, "keep its standard input open for \"migrate attach\"")
	f.BoolVar(&opts.spec.Net, "net", false, "give it a network namespace of its own")
	f.BoolVar(&opts.spec.Time, "time", false, "give it a time namespace of its own")
	f.BoolVar(&opts.spec.NoInit, "no-init", false, "run it as PID 1 itself: for programs that reap children and handle signals")
	f.Var((*bytesFlag)(&opts.spec.LogLimit), "log-limit", "size at which a log file is rotated, one old file being kept; 0 is never")
	return cmd
}

func (o *runOptions) check() error {
	if o.name == "" {
		return usagef("--name is required")
	}
	if err := workload.ValidName(o.name); err != nil {
		return usagef("--name %w", err)
	}
	for _, k := range workload.Kinds {
		if k != workload.Capsule && strings.HasPrefix(o.name, string(k)+"-") {
			return usagef("--name %s: names that begin with \"%s-\" are for what arrives of that kind", o.name, k)
		}
	}
	if o.spec.TTY && o.spec.Stdin {
		return usagef("--stdin: a terminal (--tty) is input already")
	}
	if err := workload.ValidLabels(o.labels); err != nil {
		return usagef("--%w", err)
	}
	for _, v := range o.env {
		if k, _, ok := strings.Cut(v, "="); !ok || k == "" {
			return usagef("--env %.80q: want K=V", v)
		}
	}
	return nil
}

func runRun(ctx context.Context, a *app, opts runOptions, args []string) error {
	if err := opts.check(); err != nil {
		return err
	}
	if err := needRoot("a capsule gets namespaces of its own"); err != nil {
		return err
	}
	spec, err := opts.complete(args)
	if err != nil {
		return err
	}
	if err := a.start(ctx, opts.name, spec, opts.labels); err != nil {
		return err
	}
	a.noteCordon()
	_, err = fmt.Fprintln(a.stdout, opts.name)
	return err
}

// complete fills in what comes from the command's own surroundings.
func (o *runOptions) complete(args []string) (supervisor.RunSpec, error) {
	spec := o.spec
	spec.Argv = args
	spec.Env = mergeEnv(os.Environ(), o.env)
	dir, err := filepath.Abs(o.workdir)
	if err != nil {
		return spec, err
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return spec, usagef("--workdir %s: no such directory", dir)
	}
	spec.Dir = dir
	if spec.TTY {
		if columns, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil {
			spec.Rows, spec.Columns = uint16(rows), uint16(columns)
		}
	}
	return spec, nil
}

// mergeEnv returns base with more in place of, or added to, what is there.
func mergeEnv(base, more []string) []string {
	set := map[string]bool{}
	for _, v := range more {
		k, _, _ := strings.Cut(v, "=")
		set[k] = true
	}
	var out []string
	for _, v := range base {
		if k, _, _ := strings.Cut(v, "="); !set[k] {
			out = append(out, v)
		}
	}
	return append(out, more...)
}

// start starts a capsule in place of an ended one of its name.
func (a *app) start(ctx context.Context, name string, spec supervisor.RunSpec, labels map[string]string) error {
	unlock, err := lockDir(a.stateDir)
	if err != nil {
		return err
	}
	defer unlock()
	if workload.NameTaken(a.stateDir, name) {
		return advise(fmt.Errorf("a workload named %s runs already", name), "stop it with \"migrate stop %s\", or choose another --name", name)
	}
	if err := a.notMigrating(name); err != nil {
		return err
	}
	if old, err := workload.Load(a.stateDir, name); err == nil {
		waitGone(ctx, old.Supervisor, recordWait) // it may be about to end; if not, Start says so
	}
	if err := workload.Remove(a.stateDir, name); err != nil {
		return err
	}
	s, err := supervisor.Start(ctx, supervisor.StartConfig{Name: name, StateDir: a.stateDir, RunDir: a.runDir})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Run(ctx, spec); err != nil {
		return err
	}
	return a.label(name, labels)
}

// label gives a capsule that was just started its labels.
func (a *app) label(name string, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	rec, err := workload.Load(a.stateDir, name)
	if err != nil {
		return err
	}
	return workload.SaveLabels(a.stateDir, workload.Labelled{Name: name, Kind: rec.Kind, Root: rec.Root, Labels: labels})
}

// noteCordon tells who starts something on a host that is about to be empty.
func (a *app) noteCordon() {
	if c, err := cordon.Load(a.stateDir); err == nil && c != nil {
		a.printer().note("warning: this host is cordoned since %s: %s", c.Since.Local().Format(time.DateTime), cmp.Or(c.Reason, "somebody wants it empty"))
	}
}

// lockDir keeps two commands from making workloads at the same time: both
// would find the name free.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// notMigrating refuses to touch a workload that a migration has not let go of:
// a frozen copy in doubt is not ours to end, and an arriving one not to replace.
func (a *app) notMigrating(name string) error {
	j, err := a.journal()
	if err != nil {
		return err
	}
	list, err := j.List()
	for _, r := range list {
		runs := r.Side == migrate.Target && r.Phase >= migrate.Finish // only its store is still there
		if r.Name == name && !r.Phase.Over() && !runs {
			return advise(fmt.Errorf("%s takes part in migration %s (%s side, %s)", name, r.ID, r.Side, r.Phase),
				"wait for it, or see \"migrate status %s\"", r.ID)
		}
	}
	if len(damaged(err)) > 0 { // it may be about this workload
		return fmt.Errorf("journal: %w", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
