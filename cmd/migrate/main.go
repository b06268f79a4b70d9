// Command migrate moves running workloads from one host to another.
//
// This package is the command line only: flags, signals, output and exit
// codes. Each subcommand has a file of its own with newXCommand, which binds
// its flags, and a run function that does the work with the other packages.
//
// # Output
//
// Standard output is the result of a command and nothing else. Progress,
// warnings and errors go to standard error, as lines that begin with
// "migrate: ", without capitals and full stops; advice is on a line of its own
// that begins with "migrate: hint: ". With --json the result is one object a
// line, as docs/json.md says. Commands hand what they have to a [printer] and
// never ask which one it is.
//
// Text that comes from other hosts is stripped of what a terminal would obey.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"migrate/supervisor"
)

func main() {
	if filepath.Base(os.Args[0]) == supervisor.ShimName {
		os.Exit(shim(os.Args[1:]))
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// shim is the whole program when a container runtime calls it by the name of
// CRIU.
func shim(args []string) int {
	if err := supervisor.Shim(args); err != nil {
		fmt.Fprintln(os.Stderr, "migrate: "+err.Error())
		return 1
	}
	return 0
}

// run is the whole program and returns its exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := newApp(stdin, stdout, stderr)
	root := newRootCommand(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	code := exitCode(err)
	if ownStatus(cmd) && err != nil && !errors.As(err, new(*endError)) {
		code = execFailed
	}
	a.fail(cmd, err, code)
	return code
}
