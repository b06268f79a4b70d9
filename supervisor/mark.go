package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"migrate/workload"
	"migrate/workload/cgroup"
)

// mark is what a supervisor leaves in the run directory about a hold, for the
// case that it is killed in it: whoever cleans up must know whether the tree
// was let go. It need not survive a power cut: no tree does.
type mark struct {
	State  string        `json:"state"`
	Cgroup string        `json:"cgroup"`
	CRIU   workload.Live `json:"criu"`
	Root   workload.Live `json:"root"`

	Runtime workload.Live `json:"runtime,omitzero"`  // at work on the restore of a container
	Cgroups []string      `json:"cgroups,omitempty"` // of the container
	Overlay string        `json:"overlay,omitempty"` // that is mounted for the container alone

	Record  workload.Record `json:"record"`            // as it is to be once the tree runs
	Network *NetworkSpec    `json:"network,omitempty"` // that is to be opened then
}

const (
	markPrepared = "prepared" // a container is made for what is to come
	markHeld     = "held"
	markLetGo    = "let-go" // CRIU was about to let it run
	markGone     = "gone"   // nothing is left
)

func markPath(runDir, name string) string { return filepath.Join(runDir, "w", name+".hold") }

func (s *server) mark(a *attempt, state string) {
	m := mark{State: state, Record: a.record, Network: s.net.outline()}
	if s.group != nil {
		m.Cgroup = s.group.Path()
	}
	if a.child != nil {
		m.CRIU, _ = workload.Identify(a.child.PID()) // nobody, if it has ended
	}
	m.Root, _ = workload.Identify(a.holdPID)
	if r := a.restorer; r != nil {
		m.Runtime, _ = workload.Identify(r.pid)
		m.Cgroups, m.Overlay = r.dirs, r.root.overlay()
	}
	if err := m.write(markPath(s.cfg.runDir, s.cfg.name)); err != nil {
		s.log.Error("marking the hold", "cause", err)
	}
}

func (m mark) write(path string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (s *server) unmark() {
	if err := os.Remove(markPath(s.cfg.runDir, s.cfg.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("removing the mark of the hold", "cause", err)
	}
}

func readMark(runDir, name string) (m mark, found bool, err error) {
	b, err := os.ReadFile(markPath(runDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err == nil, err
}

// Ran tells, of a workload that was held and whose supervisor does not answer
// any more, whether it was let run here. It waits for a CRIU that is still at
// work: without its supervisor's socket, it kills the tree, or lets it go if
// that was under way.
func Ran(ctx context.Context, stateDir, runDir, name string) bool {
	m, found, err := readMark(runDir, name)
	if err != nil {
		return false
	}
	if !found { // it ended in order, and its mark was removed then
		rec, err := workload.Load(stateDir, name)
		return err == nil && (rec.State == workload.Running || rec.State == workload.Exited)
	}
	if m.CRIU.AwaitEnd(ctx) != nil {
		return m.State == markLetGo
	}
	return m.State == markLetGo || m.State == markHeld && m.Root.Alive()
}

// Remember records a workload that was let run as its supervisor died ([Ran]):
// it runs, and nobody is its parent. How it ends will not be known; [Sweep] then
// clears up behind it.
func Remember(stateDir, runDir, name string) error {
	m, found, err := readMark(runDir, name)
	if err != nil || !found {
		return err
	}
	if was, err := workload.Load(stateDir, name); err == nil && was.Root == m.Root {
		return nil // it had come to that itself
	}
	if err := errors.Join(m.openNetwork(), removeRuntimeDir(runtimeDir(runDir, name))); err != nil {
		return err
	}
	r := m.Record
	r.Name, r.State, r.Root = name, workload.Running, m.Root
	r.Started, r.Arrived = time.Now(), time.Now()
	return workload.Save(stateDir, r)
}

// ErrRuns means that a workload runs, so that there is nothing to clean up.
var ErrRuns = errors.New("the workload runs")

// Cleanup removes what a supervisor that was killed before its workload ran
// has left: the tree with its cgroup, socket and mark. If there is nothing, that
// is no error. A workload that runs, or has a supervisor that answers and does not
// want to discard it, is not touched and the error matches [ErrRuns].
func Cleanup(ctx context.Context, stateDir, runDir, name string) error {
	if err := cleanup(ctx, stateDir, runDir, name); err != nil {
		return fmt.Errorf("cleaning up workload %s: %w", name, err)
	}
	return nil
}

func cleanup(ctx context.Context, stateDir, runDir, name string) error {
	if err := workload.ValidName(name); err != nil {
		return err
	}
	if c, err := Connect(runDir, name); err == nil {
		defer c.Close()
		_, err := call[Status](ctx, c, "discard", nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrGone) {
			return fmt.Errorf("%w: %w", ErrRuns, err)
		}
		// It was just being killed: while its threads end one can still connect.
	}
	rec, recErr := workload.Load(stateDir, name)
	m, found, err := readMark(runDir, name)
	if err != nil {
		return err
	}
	if (!found || m.State == markLetGo) && recErr == nil && rec.LiveRoot() != 0 || m.State == markLetGo && m.Root.Alive() {
		return ErrRuns
	}
	if err := killLeftGroup(ctx, name); err != nil {
		return err
	}
	if err := m.removeContainer(ctx); err != nil {
		return err
	}
	if err := m.Root.AwaitEnd(ctx); err != nil { // a process leaves its cgroup before it has quite ended
		return err
	}
	if err := removeRuntimeDir(runtimeDir(runDir, name)); err != nil {
		return err
	}
	for _, path := range []string{SocketPath(runDir, name), markPath(runDir, name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if errors.Is(recErr, fs.ErrNotExist) {
		return workload.Remove(stateDir, name)
	}
	return nil
}

func killLeftGroup(ctx context.Context, name string) error {
	g, err := cgroup.Create(name)
	if err != nil {
		return err
	}
	if err := g.Kill(ctx); err != nil {
		return err
	}
	return g.Remove()
}
