package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"migrate"
	"migrate/journal"
	"migrate/transport"
	"migrate/transport/pki"
)

// app is what all commands share: the standard streams and the settings that
// every command has.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	stateDir, runDir, pkiDir string
	json                     bool
	quiet, verbose           bool

	unaudited atomic.Pointer[string] // why a request is not in the audit record
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	return &app{
		stdin: stdin, stdout: stdout, stderr: stderr,
		stateDir: fromEnv("MIGRATE_STATE_DIR", "/var/lib/migrate"),
		runDir:   fromEnv("MIGRATE_RUN_DIR", "/run/migrate"),
		pkiDir:   fromEnv("MIGRATE_PKI_DIR", "/etc/migrate/pki"),
	}
}

func fromEnv(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// bind adds the flags that every command has.
func (a *app) bind(f *pflag.FlagSet) {
	f.StringVar(&a.stateDir, "state-dir", a.stateDir, "journal, workloads and their logs (or MIGRATE_STATE_DIR)")
	f.StringVar(&a.runDir, "run-dir", a.runDir, "sockets and received pages (or MIGRATE_RUN_DIR)")
	f.StringVar(&a.pkiDir, "pki-dir", a.pkiDir, "this host's certificate (or MIGRATE_PKI_DIR)")
}

// bindJSON adds --json to a command that has a JSON form.
func (a *app) bindJSON(f *pflag.FlagSet) {
	f.BoolVar(&a.json, "json", false, "print one JSON object a line, as documented in docs/json.md")
}

// bindVerbosity adds the flags of commands that tell how they go on.
func (a *app) bindVerbosity(f *pflag.FlagSet) {
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print the result and errors only")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log each step to standard error")
}

// absolute makes the directories independent of the working directory: a
// supervisor has another one.
func (a *app) absolute() error {
	for _, dir := range []*string{&a.stateDir, &a.runDir, &a.pkiDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	return nil
}

func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	switch {
	case a.verbose:
		level = slog.LevelDebug
	case a.quiet:
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}

func (a *app) journal() (*journal.Journal, error) {
	return journal.Open(filepath.Join(a.stateDir, "journal"))
}

// identity loads this host's certificate.
func (a *app) identity() (pki.Identity, error) {
	id, err := pki.Load(a.pkiDir)
	if errors.Is(err, fs.ErrNotExist) {
		return id, advise(fmt.Errorf("this host has no certificate: %w", err),
			"make an authority with \"migrate pki init\" on one host, a certificate for each with \"migrate pki issue NAME\", and put its files into %s", a.pkiDir)
	}
	if err != nil {
		return id, fmt.Errorf("this host's certificate: %w", err)
	}
	return id, nil
}

// needRoot refuses to begin what only root can do.
func needRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return &blockedError{advise(fmt.Errorf("needs root: %s", what), "run it with sudo, or as root")}
}

// fail prints err, unless everything has been said.
func (a *app) fail(cmd *cobra.Command, err error, code int) {
	if code == 0 {
		a.tellUnaudited()
	}
	if err == nil || errors.As(err, new(*endError)) {
		return
	}
	f := failureOf(err)
	if errors.As(err, new(*usageError)) && cmd != nil && f.Advice == "" {
		f.Advice = fmt.Sprintf("see \"%s --help\"", cmd.CommandPath())
	}
	a.printer().failure(f, code)
}

// failureOf puts err into three lines: what failed, why, what to do.
func failureOf(err error) migrate.Failure {
	f, own := migrate.FailureOf(err)
	if own {
		return f
	}
	if known := transport.Failure(err); known.Advice != "" {
		return known
	}
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		f.Advice = "run it with sudo, or as root"
	}
	return f
}
