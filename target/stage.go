package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/internal/hostinfo"
	"migrate/journal"
	"migrate/rootfs"
	"migrate/transport"
)

// A staging is one file tree on its way in.
type staging struct {
	tree  transport.Tree
	mu    sync.Mutex // one pass at a time
	stage *rootfs.Stage
	final bool // the last pass was of the frozen workload, and is applied

	flushing atomic.Bool
}

// openTrees makes room for the trees that come. What is made is journaled before.
func (r *receiver) openTrees() error {
	trees := sentTrees(r.offer)
	if len(trees) == 0 {
		return nil
	}
	made, hollow := r.missingDirs(trees)
	err := r.entry.Update(func(j *journal.Record) {
		for _, t := range trees {
			j.Places = append(j.Places, t.Path)
		}
		j.Made, j.Hollow, j.Scratch = append(made, j.Made...), hollow, r.scratch(made)
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(made) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return &filesError{err}
		}
	}
	if err := r.makeHollow(hollow); err != nil {
		return &filesError{err}
	}
	for _, t := range trees {
		if err := r.openTree(t); err != nil {
			return &filesError{err}
		}
	}
	return nil
}

// missingDirs returns the directories that have to be made, deepest first, and one
// for a runtime to look at in place of a plain root file system that is still to come:
// it makes directories in there to mount things on.
func (r *receiver) missingDirs(trees []transport.Tree) (made []string, hollow string) {
	wanted := []string{}
	for _, t := range trees {
		wanted = append(wanted, filepath.Dir(t.Path))
		if t.Role != migrate.TreeRoot {
			continue
		}
		root := r.offer.Workload.Container.RootFS
		if root.Kind == migrate.RootOverlay {
			wanted = append(wanted, root.Work, root.Path)
		} else if len(missing(root.Path)) > 0 {
			hollow = root.Path
		}
	}
	for _, dir := range wanted {
		made = append(made, missing(dir)...)
	}
	slices.Sort(made)
	made = slices.Compact(made)
	slices.Reverse(made)
	return made, hollow
}

// scratch returns the work directory of the container's overlay if it is among those
// that are made: the kernel puts things in there.
func (r *receiver) scratch(made []string) string {
	c := r.offer.Workload.Container
	if c == nil || !slices.Contains(made, c.RootFS.Work) {
		return ""
	}
	return c.RootFS.Work
}

// makeHollow makes that directory. In a user namespace the runtime is another user
// there.
func (r *receiver) makeHollow(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil || !r.offer.Workload.Container.UserNamespace {
		return err
	}
	return os.Chmod(dir, 0o777|os.ModeSticky)
}

func (r *receiver) openTree(t transport.Tree) error {
	free, err := hostinfo.Free(filepath.Dir(t.Path))
	if err != nil {
		return err
	}
	place := rootfs.Place{Path: t.Path, ID: r.id}
	stage, err := place.Open(rootfs.StageOptions{
		Kind: rootfs.Kind(t.Kind), Limits: rootfs.Limits{Bytes: int64(max(free, 1)), Entries: maxTreeEntries}, Devices: allowedDevices,
	})
	if err != nil {
		return err
	}
	r.trees = append(r.trees, &staging{tree: t, stage: stage})
	return nil
}

// sayPrepared lets the source begin. Of a tree that takes the place of another, such as
// an older copy of it, it is told what that holds, which need not be sent.
func (r *receiver) sayPrepared(ctx context.Context, s *transport.Session) error {
	m := r.costs.prepared(r.mode)
	for i, t := range r.trees {
		_, err := os.Stat(t.tree.Path)
		if err == nil && t.tree.Path != r.entry.Record().Hollow {
			m.Offers = append(m.Offers, i)
		}
	}
	if err := s.Send(ctx, m); err != nil {
		return err
	}
	for _, i := range m.Offers {
		if err := r.offerTree(ctx, s, i); err != nil {
			return err
		}
	}
	return nil
}

func (r *receiver) offerTree(ctx context.Context, s *transport.Session, i int) error {
	out, err := s.OpenTree(ctx, i, func() transport.Codec { return transport.CodecNone }) // digests
	if err != nil {
		return err
	}
	if err = r.trees[i].stage.Offer(ctx, out); err == nil {
		_, err = out.End(ctx)
	}
	if err != nil {
		out.Abandon(err)
	}
	return err
}

// filesError is what could not be done for a workload's files.
type filesError struct{ err error }

func (e *filesError) Error() string { return e.err.Error() }

func (e *filesError) Unwrap() error { return e.err }

// Failure tells a disk that is full from a source that breaks the rules.
func (e *filesError) Failure() migrate.Failure {
	if f, ok := errors.AsType[*rootfs.FullError](e.err); ok {
		return migrate.Failure{What: "no room for the workload's files on the target: " + f.Error(), Advice: "free space there, or choose another target"}
	}
	return migrate.Failure{What: "the workload's files cannot be received", Cause: e.err.Error(), Advice: "see the log of the agent there"}
}

// takeTree applies one pass. One that breaks off while the session goes on is
// followed by another.
func (in *intake) takeTree(r *transport.TreeReader) error {
	if r.Tree < 0 || r.Tree >= len(in.trees) {
		return fmt.Errorf("%w: a pass over tree %d of %d", transport.ErrProtocol, r.Tree, len(in.trees))
	}
	t := in.trees[r.Tree]
	at, err := t.apply(in.ctx, r)
	if err != nil && !errors.Is(err, transport.ErrCancelled) {
		return &filesError{err}
	}
	return in.session.Send(in.ctx, transport.PassAck{Tree: r.Tree, TreeAt: at})
}

// flush writes to the disk what a pass has brought while the workload runs, so that
// little is left to be written while it is frozen.
func (t *staging) flush() {
	if t.final || !t.flushing.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer t.flushing.Store(false)
		if f, err := os.Open(filepath.Dir(t.tree.Path)); err == nil {
			_ = unix.Syncfs(int(f.Fd())) // what it cannot write will fail again, where it matters
			f.Close()
		}
	}()
}

func (t *staging) apply(ctx context.Context, r *transport.TreeReader) (transport.TreeAt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = false
	done, err := t.stage.Apply(ctx, r.With(ctx))
	if err == nil {
		err = r.End()
	}
	t.final = err == nil && done.Final
	t.flush()
	return transport.TreeAt(done.Position), err
}

// at is how far the trees have come, for a source that comes back.
func (r *receiver) treesAt() []transport.TreeAt {
	var list []transport.TreeAt
	for _, t := range r.trees {
		t.mu.Lock()
		list = append(list, transport.TreeAt(t.stage.Position()))
		t.mu.Unlock()
	}
	return list
}

// commitTrees puts the trees where a restore finds them, if they are what the source
// says. They are taken back if the workload does not come to run.
func (r *receiver) commitTrees(ctx context.Context, ends []transport.TreeEnd) error {
	if len(ends) != len(r.trees) {
		return fmt.Errorf("%w: the end of %d file trees, of %d", transport.ErrProtocol, len(ends), len(r.trees))
	}
	for i, t := range r.trees {
		if err := t.check(ctx, ends[i]); err != nil {
			return err
		}
		if err := t.stage.Place().Commit(); err != nil {
			return &filesError{err}
		}
	}
	return nil
}

func (t *staging) check(ctx context.Context, end transport.TreeEnd) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := transport.TreeAt(t.stage.Position())
	if !t.final || at != end.TreeAt {
		return fmt.Errorf("%w: the files of %s are at %+v, and were sent up to %+v", transport.ErrProtocol, t.tree.Path, at, end.TreeAt)
	}
	if end.Digest == "" {
		return nil
	}
	have, err := rootfs.Digest(ctx, t.stage.Place().Tree(), rootfs.Kind(t.tree.Kind))
	if err == nil && have != end.Digest {
		err = fmt.Errorf("the files in %s are not what they are on the source, says --verify", t.tree.Path)
	}
	if err != nil {
		return &filesError{err}
	}
	return nil
}

// syncTrees writes the trees to the disk beside whatever else is done, and returns
// what waits for that: a source removes its own once we have voted.
func (r *receiver) syncTrees() (wait func() error) {
	done := make(chan error, len(r.trees))
	for _, t := range r.trees {
		go func() { done <- t.stage.Sync() }()
	}
	return func() error {
		var errs []error
		for range r.trees {
			errs = append(errs, <-done)
		}
		return errors.Join(errs...)
	}
}

// discardTrees leaves every place as it was.
func (r *receiver) discardTrees() error {
	r.closeTrees()
	rec := r.entry.Record()
	for _, p := range rec.Places {
		if err := (rootfs.Place{Path: p, ID: r.id}).Discard(); err != nil {
			return err
		}
	}
	if rec.Hollow != "" {
		removeHollow(rec.Hollow)
	}
	if rec.Scratch != "" {
		return os.RemoveAll(rec.Scratch)
	}
	return nil
}

func (r *receiver) closeTrees() {
	for _, t := range r.trees {
		t.stage.Close()
	}
	r.trees = nil
}

// finishTrees removes what was at the places before.
func (r *receiver) finishTrees() error {
	r.closeTrees()
	for _, p := range r.entry.Record().Places {
		if err := (rootfs.Place{Path: p, ID: r.id}).Finish(); err != nil {
			return err
		}
	}
	return nil
}

// removeHollow removes a directory and the empty directories and files in it. It
// stops at anything else.
func removeHollow(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			removeHollow(path)
		} else if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			_ = os.Remove(path) // then the directory stays too
		}
	}
	_ = os.Remove(dir) // one that holds something stays
}
