package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"

	"migrate"
	"migrate/workload"
)

// Discover returns the containers of this host that run, of each runtime in the
// PATH: those whose state is where the runtime keeps it by itself, and wherever a
// container is that arrived here. What cannot be asked is in the error; the list
// is good also then.
func Discover(ctx context.Context, stateDir string) ([]workload.Found, error) {
	records, err := workload.List(stateDir)
	problems := []error{err}
	var list []workload.Found
	for _, name := range Names {
		for _, root := range roots(records, name) {
			found, err := running(ctx, name, root)
			list, problems = append(list, found...), append(problems, err)
		}
	}
	return list, errors.Join(problems...)
}

// roots returns where a runtime's containers are to be looked for; "" is its
// default.
func roots(records []workload.Record, runtime string) []string {
	list := []string{""}
	for _, r := range records {
		if c := r.Container; c != nil && c.Runtime == runtime && r.LiveRoot() != 0 && !slices.Contains(list, c.Root) {
			list = append(list, c.Root)
		}
	}
	return list
}

// running returns the containers of a runtime that run.
func running(ctx context.Context, name, root string) ([]workload.Found, error) {
	if _, err := os.Stat(Runtime{Name: name, Root: root}.stateRoot()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it has none, and need not be asked
	}
	r, err := Find(ctx, name, root)
	if errors.Is(err, exec.ErrNotFound) && root == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("containers of %s: %w", name, err)
	}
	states, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	var list []workload.Found
	for _, s := range states {
		f, err := r.found(s)
		if err == nil {
			list = append(list, f)
		}
	}
	return list, nil
}

// Lookup returns a container of this host that runs, as [Discover] does. If there
// is none the error matches [ErrNone].
func Lookup(ctx context.Context, stateDir string, ref workload.Ref) (workload.Found, error) {
	list, err := Discover(ctx, stateDir)
	for _, f := range list {
		if f.Ref == ref {
			return f, nil
		}
	}
	if err != nil {
		return workload.Found{}, err
	}
	return workload.Found{}, fmt.Errorf("no container %s of %s runs on this host: %w", ref.ID, ref.Kind, ErrNone)
}

// found is an error for a container that has no processes, or a name that no
// workload can have.
func (r Runtime) found(s State) (workload.Found, error) {
	if !s.Running() {
		return workload.Found{}, ErrNone
	}
	ref, err := workload.Parse(r.Name + ":" + s.ID)
	if err != nil {
		return workload.Found{}, err
	}
	root, err := workload.Identify(s.PID)
	if err != nil {
		return workload.Found{}, err
	}
	look := func(ctx context.Context, blockers bool) (migrate.Workload, []migrate.Finding, error) {
		return r.look(ctx, s.ID, blockers)
	}
	return workload.Found{Ref: ref, Name: ref.Name(), Root: root, Look: look}, nil
}

func (r Runtime) look(ctx context.Context, id string, blockers bool) (migrate.Workload, []migrate.Finding, error) {
	c, findings, err := Inspect(ctx, r, id)
	if err != nil {
		return migrate.Workload{}, nil, err
	}
	paused := slices.ContainsFunc(findings, func(f migrate.Finding) bool { return f.Code == CodePaused })
	if !blockers || paused { // what is paused looks stuck, and would be waited for
		w, err := workload.DescribeContainer(c.PID, c.RootFS.Path)
		if !blockers {
			findings = nil
		}
		return w, findings, err
	}
	w, more, err := workload.InspectContainer(ctx, c.PID, c.RootFS.Path)
	return w, append(findings, more...), err
}
