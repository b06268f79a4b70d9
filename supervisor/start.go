package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"migrate/workload"
)

// Verb is the hidden command of the program that runs [Main].
const Verb = "supervise"

// readyFD is the descriptor on which a supervisor tells its starter that it
// listens, or why not.
const readyFD = 3

// readyWord is what it says when all is well.
const readyWord = "ready\n"

// StartConfig says how to start a supervisor.
type StartConfig struct {
	Name     string // of the workload
	StateDir string
	RunDir   string
	Program  string   // this program's binary; default the running one
	Args     []string // before the supervisor's own; default [Verb]
	// AvoidPIDs are numbers that the supervisor, CRIU and their threads must leave
	// free in the host's PID namespace, because a restore will need them.
	AvoidPIDs []int
	Logger    *slog.Logger // nil means discard
}

// Start starts a supervisor and returns a client for it once it listens. It
// lives on when the caller ends. ctx bounds the start only.
func Start(ctx context.Context, c StartConfig) (*Client, error) {
	client, err := start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("starting a supervisor for %s: %w", c.Name, err)
	}
	return client, nil
}

func start(ctx context.Context, c StartConfig) (*Client, error) {
	if err := workload.ValidName(c.Name); err != nil {
		return nil, err
	}
	if err := passPIDs(c.AvoidPIDs); err != nil {
		return nil, err
	}
	fresh, err := makeDir(c.StateDir, c.Name)
	if err != nil {
		return nil, err
	}
	err = spawn(ctx, c)
	if err != nil {
		if fresh {
			err = errors.Join(err, os.RemoveAll(workload.RecordDir(c.StateDir, c.Name)))
		}
		return nil, err
	}
	return Connect(c.RunDir, c.Name)
}

// makeDir makes the workload's directory and tells whether it was not there.
// The state directory may be searched by everybody, for the tiny init in it.
func makeDir(stateDir, name string) (fresh bool, err error) {
	dir := workload.RecordDir(stateDir, name)
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return false, err
	}
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// spawn runs the supervisor and waits for its word.
func spawn(ctx context.Context, c StartConfig) error {
	program, err := os.Executable()
	if err != nil && c.Program == "" {
		return err
	}
	args := append(slices.Clone(c.Args), "--name", c.Name, "--state-dir", c.StateDir, "--run-dir", c.RunDir)
	if c.Args == nil {
		args = append([]string{Verb}, args...)
	}
	log, err := os.OpenFile(filepath.Join(workload.RecordDir(c.StateDir, c.Name), "supervisor.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), cmp.Or(c.Program, program), args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	go cmd.Wait() // it outlives us; while we live, we must reap it
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill(); r.Close() })
	defer stop()
	word, err := io.ReadAll(io.LimitReader(r, 64<<10))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case string(word) == readyWord:
		return nil
	case len(word) > 0:
		return errors.New(strings.TrimSpace(string(word)))
	}
	return errors.Join(fmt.Errorf("it ended at once, see %s", log.Name()), err)
}
