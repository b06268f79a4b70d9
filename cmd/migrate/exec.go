package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"migrate/supervisor"
)

type execOptions struct{ tty, stdin bool }

const execLong = `Runs a command inside a workload of this host: in its cgroup and all its
namespaces, the time namespace included.

Exit status:
  that of the command; 128 plus the number of the signal that ended it
  125  migrate could not run it
  127  the command cannot be executed`

const execExample = `  migrate exec web -- cat /proc/self/cgroup
  migrate exec -t -i web -- sh`

func newExecCommand(a *app) *cobra.Command {
	var opts execOptions
	cmd := &cobra.Command{
		Use:         "exec NAME -- CMD [ARG...]",
		Short:       "Run a command inside a workload",
		Long:        execLong,
		Example:     execExample,
		Annotations: map[string]string{passesStatus: "yes"},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("want NAME and a command")
			}
			return nil
		},
		ValidArgsFunction: completeName(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExec(cmd.Context(), a, opts, args)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&opts.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&opts.stdin, "interactive", "i", false, "pass standard input on")
	return cmd
}

func runExec(ctx context.Context, a *app, opts execOptions, args []string) error {
	if err := needRoot("a command enters the workload's namespaces"); err != nil {
		return err
	}
	rec, err := a.workload(args[0])
	if err != nil {
		return err
	}
	argv := args[1:]
	if argv[0] == "--" { // behind NAME, flags are not parsed any more
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return usagef("want a command after --")
	}
	cmd, err := supervisor.ExecCommand(ctx, a.stateDir, rec, argv, opts.tty)
	if err != nil {
		return err
	}
	if opts.tty {
		err = a.runOnTerminal(cmd, opts.stdin)
	} else {
		err = a.runPlain(cmd, opts.stdin)
	}
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return end(exitStatus(ended.Sys().(syscall.WaitStatus)))
	}
	return err
}

// exitStatus is what a shell makes of how a process ended.
func exitStatus(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// runPlain runs cmd on our own streams. The terminal's signals reach it
// without us; others are passed on.
func (a *app) runPlain(cmd *exec.Cmd, stdin bool) error {
	cmd.Stdout, cmd.Stderr = a.stdout, a.stderr
	if stdin {
		cmd.Stdin = a.stdin
	}
	err := cmd.Start()
	closeAll(cmd.ExtraFiles)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM || s == syscall.SIGHUP {
				_ = cmd.Process.Signal(s) // ended already is as good
			}
		}
	}()
	err = cmd.Wait()
	signal.Stop(signals)
	close(signals)
	return err
}

// runOnTerminal runs cmd on a new terminal that is joined to ours.
func (a *app) runOnTerminal(cmd *exec.Cmd, stdin bool) error {
	master, slave, err := pty.Open()
	if err != nil {
		closeAll(cmd.ExtraFiles)
		return fmt.Errorf("new terminal: %w", err)
	}
	defer master.Close()
	if in, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		_ = pty.InheritSize(in, master) // else it has the default
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	err = cmd.Start()
	slave.Close()
	closeAll(cmd.ExtraFiles)
	if err != nil {
		return err
	}
	sizes, stop := windowSizes(a.stdin)
	defer stop()
	go func() {
		for s := range sizes {
			_ = pty.Setsize(master, &pty.Winsize{Rows: s.Rows, Cols: s.Columns})
		}
	}()
	if stdin {
		restore := rawTerminal(a.stdin)
		defer restore()
		go func() { _, _ = io.Copy(master, a.stdin) }()
	}
	// The end of output is EIO, when nobody has the slave open any more; so that
	// a program left in the background does not keep us, the command's end counts.
	copied := make(chan struct{})
	go func() { _, _ = io.Copy(a.stdout, master); close(copied) }()
	err = cmd.Wait()
	awaitRest(master, copied)
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
