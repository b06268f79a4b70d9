// Package oci knows containers of OCI runtimes that keep their state on the
// host, runc and crun: where they are, what they consist of, and what in them
// cannot be moved.
//
// It runs the runtimes' own programs and reads their bundles and the kernel's
// mount tables. It changes nothing but by [Runtime.Delete].
package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"migrate"
	"migrate/workload"
)

// Names are the runtimes that are known.
var Names = []string{"runc", "crun"}

// Runtime is a container runtime of this host.
type Runtime struct {
	Name    string // one of [Names]
	Path    string // of its program
	Root    string // directory of its state; "" is its default
	Version string // such as "1.3.6"
	// Run runs a command to its end; nil is [exec.Cmd.Run].
	Run func(*exec.Cmd) error
}

// commandTime bounds each run of a runtime that only asks or removes.
const commandTime = 30 * time.Second

// Find looks for a runtime in the PATH and asks it for its version. Without one
// the error matches [exec.ErrNotFound].
func Find(ctx context.Context, name, root string) (Runtime, error) {
	return find(ctx, Runtime{Name: name, Root: root})
}

func find(ctx context.Context, r Runtime) (Runtime, error) {
	name, root := r.Name, r.Root
	if !slices.Contains(Names, name) {
		return r, fmt.Errorf("container runtime %.40q: not one of %q", name, Names)
	}
	if root != "" && !filepath.IsAbs(root) {
		return r, fmt.Errorf("state of %s in %.80q: not an absolute path", name, root)
	}
	var err error
	if r.Path, err = exec.LookPath(name); err != nil {
		return r, err
	}
	out, err := r.run(ctx, "--version")
	if err != nil {
		return r, err
	}
	r.Version = parseVersion(string(out))
	return r, nil
}

var versionLine = regexp.MustCompile(`version v?(\d+\.\d+(?:\.\d+)?)`)

// parseVersion reads the first line of --version: "runc version 1.3.6+ds1".
func parseVersion(text string) string {
	if m := versionLine.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// AtLeast compares versions by their first three numbers. One that is not known
// is older than any.
func AtLeast(version string, major, minor, patch int) bool {
	var have [3]int
	for i, part := range strings.SplitN(version, ".", 3) {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false
		}
		have[i] = n
	}
	return slices.Compare(have[:], []int{major, minor, patch}) >= 0
}

// ExecJoinsTime reports whether the runtime's own exec enters the time namespace
// of a container that was restored. runc does so since 1.2.7, and not in the first
// of 1.3 (opencontainers/runc#4696, #4705, #4714); crun joins every namespace of
// the first process.
func (r Runtime) ExecJoinsTime() bool {
	return r.Name != "runc" || AtLeast(r.Version, 1, 2, 7)
}

// Command returns a command of the runtime.
func (r Runtime) Command(ctx context.Context, args ...string) *exec.Cmd {
	if r.Root != "" {
		args = append([]string{"--root", r.Root}, args...)
	}
	return exec.CommandContext(ctx, r.Path, args...)
}

func (r Runtime) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := r.Command(ctx, args...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	run := r.Run
	if run == nil {
		run = (*exec.Cmd).Run
	}
	if err := run(cmd); err != nil {
		return nil, fmt.Errorf("%s %s: %w%s", r.Name, strings.Join(args, " "), err, detail(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// detail is the last line that a runtime printed, to be put behind an error.
func detail(stderr string) string {
	if last := LastMessage(stderr); last != "" {
		return ": " + last
	}
	return ""
}

// LastMessage returns the last line of a runtime's log, without what runc puts
// around it.
func LastMessage(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	last := lines[len(lines)-1]
	if m := logMessage.FindStringSubmatch(last); m != nil {
		return m[1]
	}
	return last
}

var logMessage = regexp.MustCompile(`msg="((?:[^"\\]|\\.)*)"`)

// State is what a runtime says of a container.
type State struct {
	ID     string `json:"id"`
	PID    int    `json:"pid"` // of its first process; 0 if that has ended
	Status string `json:"status"`
	Bundle string `json:"bundle"`
	RootFS string `json:"rootfs"`
}

// Running reports whether the container has processes.
func (s State) Running() bool { return s.Status == "running" || s.Status == "paused" }

// ErrNone means that a runtime has no container of that name.
var ErrNone = errors.New("no such container")

// State asks for one container. If there is none the error matches [ErrNone].
func (r Runtime) State(ctx context.Context, id string) (State, error) {
	if err := workload.ValidContainer(id); err != nil {
		return State{}, err
	}
	if _, err := os.Stat(filepath.Join(r.stateRoot(), id)); errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("%s has no container %s: %w", r.Name, id, ErrNone)
	}
	out, err := r.run(ctx, "state", id)
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(out, &s); err != nil {
		return State{}, fmt.Errorf("what %s says of container %s: %w", r.Name, id, err)
	}
	return s, nil
}

// stateRoot is where a runtime that runs as root keeps its containers.
func (r Runtime) stateRoot() string {
	if r.Root != "" {
		return r.Root
	}
	return filepath.Join("/run", r.Name)
}

// Provide makes a directory that the runtime keeps among its state to hide paths
// of containers with, as it does itself for the first that needs one. Anything
// else is left alone.
func (r Runtime) Provide(path string) error {
	if filepath.Dir(path) != r.stateRoot() {
		return nil
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.MkdirAll(path, 0o555)
}

// List returns the runtime's containers.
func (r Runtime) List(ctx context.Context) ([]State, error) {
	if _, err := os.Stat(r.stateRoot()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	out, err := r.run(ctx, "list", "--format", "json")
	if err != nil {
		return nil, err
	}
	var list []State
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("containers of %s: %w", r.Name, err)
	}
	return list, nil
}

// Delete removes a container, with what is left of its processes and cgroups.
// If there is none that is no error. One whose first process runs and is not
// root is somebody else's by now, and an error.
func (r Runtime) Delete(ctx context.Context, id string, root int) error {
	s, err := r.State(ctx, id)
	if errors.Is(err, ErrNone) {
		return nil
	}
	if err == nil && s.Running() && s.PID != root {
		return fmt.Errorf("container %s of %s runs as process %d, not %d: not removed", id, r.Name, s.PID, root)
	}
	if err := detachBelow(filepath.Join(r.stateRoot(), id)); err != nil {
		return fmt.Errorf("container %s of %s: not removed: %w", id, r.Name, err)
	}
	_, err = r.run(ctx, "delete", "--force", id)
	if _, gone := r.State(ctx, id); errors.Is(gone, ErrNone) {
		return nil
	}
	return err
}

// Of returns the runtime that a container belongs to. run is how it runs commands.
func Of(ctx context.Context, ref migrate.ContainerRef, run func(*exec.Cmd) error) (Runtime, error) {
	if err := workload.ValidContainer(ref.ID); err != nil {
		return Runtime{}, err
	}
	return find(ctx, Runtime{Name: ref.Runtime, Root: ref.Root, Run: run})
}
