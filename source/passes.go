package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/rootfs"
	"migrate/transport"
	"migrate/workload"
)

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// openTrees prepares to send trees, and reads what the target has in their places.
func (v *move) openTrees(ctx context.Context) (err error) {
	trees := v.sent()
	for _, t := range trees {
		if t.sender, err = rootfs.NewSender(t.Path, t.kind); err != nil {
			return err
		}
	}
	for _, n := range v.prepared.Offers {
		if n < 0 || n >= len(trees) {
			return fmt.Errorf("the target offers tree %d of %d", n, len(trees))
		}
		if err := v.readOffer(ctx, n, trees[n].sender); err != nil {
			return fmt.Errorf("what the target has of %s: %w", trees[n].Path, err)
		}
	}
	return nil
}

func (v *move) readOffer(ctx context.Context, n int, to *rootfs.Sender) error {
	st, err := v.session.AcceptStream(ctx)
	if err != nil {
		return err
	}
	r, ok := st.(*transport.TreeReader)
	if !ok || r.Tree != n {
		return fmt.Errorf("%w: %T in place of an offer of tree %d", transport.ErrProtocol, st, n)
	}
	if err := to.Offered(ctx, r.With(ctx)); err != nil {
		return err
	}
	return r.End()
}

// roundWithFiles makes a round, and a pass over the files beside it.
func (v *move) roundWithFiles(ctx context.Context, n int) (migrate.Round, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	passed := make(chan error, 1)
	go func() {
		err := v.passFiles(ctx, false)
		if err != nil {
			cancel(err)
		}
		passed <- err
	}()
	r, err := v.round(ctx, n)
	if err != nil {
		cancel(err)
	}
	if other := <-passed; other != nil && !errors.Is(err, other) && !errors.Is(other, err) {
		err = errors.Join(err, other)
	}
	return r, err
}

// passFiles makes one pass over each tree that is sent, and waits until the target
// has applied them.
func (v *move) passFiles(ctx context.Context, final bool) error {
	trees := v.sent()
	if len(trees) == 0 {
		return nil
	}
	v.events.files(v.expectedFiles(trees))
	begun := time.Now()
	var done []rootfs.Stats
	var changing error
	for i, t := range trees {
		st, err := v.pass(ctx, i, t, final)
		if errors.Is(err, rootfs.ErrChanging) {
			changing = fmt.Errorf("files in %s: %w", t.Path, err)
		} else if err != nil {
			return fmt.Errorf("files in %s: %w", t.Path, err)
		}
		done = append(done, st)
	}
	for range trees {
		n, err := v.settlePass(ctx, trees)
		if err != nil {
			return err
		}
		v.addPass(trees[n], done[n], final, begun)
	}
	return changing
}

// settlePass waits until the target has applied a pass, or as much of it as it got,
// and returns over which tree.
func (v *move) settlePass(ctx context.Context, trees []*tree) (int, error) {
	select {
	case a := <-v.inbox.passes:
		if a.Tree < 0 || a.Tree >= len(trees) {
			return 0, fmt.Errorf("the target acknowledged a pass over tree %d of %d", a.Tree, len(trees))
		}
		return a.Tree, trees[a.Tree].sender.Settle(rootfs.Position(a.TreeAt))
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// expectedFiles is about how much content a pass has to look at.
func (v *move) expectedFiles(trees []*tree) (bytes uint64) {
	for _, t := range trees {
		if len(t.Passes) == 0 {
			bytes += uint64(t.Bytes)
		}
	}
	return bytes
}

// pass sends one pass over a tree.
func (v *move) pass(ctx context.Context, n int, t *tree, final bool) (rootfs.Stats, error) {
	out, err := v.session.OpenTree(ctx, n, v.path.Codec)
	if err != nil {
		return rootfs.Stats{}, err
	}
	o := rootfs.PassOptions{Final: final, Used: func(context.Context) ([]rootfs.Used, error) { return v.inUse(t) }}
	st, err := t.sender.Pass(ctx, counted{out, &v.events.fileBytes}, o)
	if err == nil {
		_, err = out.End(ctx)
	}
	if err != nil {
		out.Abandon(err)
	}
	return st, err
}

// counted counts what passes.
type counted struct {
	out   *transport.TreeWriter
	bytes *atomic.Uint64
}

// Write implements [io.Writer].
func (c counted) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	c.bytes.Add(uint64(n))
	return n, err
}

// inUse returns what of a tree the workload may change without its times telling.
func (v *move) inUse(t *tree) ([]rootfs.Used, error) {
	var c *migrate.Container
	if v.container != nil {
		c = &v.container.Container
	}
	files, err := workload.FilesInUse(v.root)
	var list []rootfs.Used
	for _, f := range files {
		if p := hostPath(c, f.Path); p == "" {
			list = append(list, rootfs.Used{Mapped: f.Mapped})
		} else if p != t.view && rootfs.IsBelow(p, t.view) {
			list = append(list, rootfs.Used{Path: strings.TrimPrefix(p[len(t.view):], "/"), Mapped: f.Mapped})
		}
	}
	return list, err
}

func (v *move) addPass(t *tree, st rootfs.Stats, final bool, begun time.Time) {
	p := migrate.TreePass{
		Pass: st.Pass, Final: final, Entries: st.Entries, Changes: st.Changes, Missed: st.Missed, Read: st.Read, Data: st.Data, Reused: st.Reused,
		Walk: migrate.Millis(st.Walk), Duration: migrate.Millis(time.Since(begun)),
	}
	t.Passes = append(t.Passes, p)
	v.report.FileBytes += st.Data
	v.log.Info("files passed", "tree", t.Path, "pass", p.Pass, "final", final, "changes", p.Changes, "bytes", p.Data, "elapsed", time.Duration(p.Duration))
}

// lastPasses are how long the last two passes over all trees took; 0 stands for one that
// was not.
func (v *move) lastPasses() (last, before time.Duration) {
	for _, t := range v.sent() {
		if n := len(t.Passes); n > 0 {
			last = max(last, time.Duration(t.Passes[n-1].Duration))
			if n > 1 {
				before = max(before, time.Duration(t.Passes[n-2].Duration))
			}
		}
	}
	return last, before
}

// filesSettled reports whether another pass would not make the final one shorter:
// the last was short enough, or no shorter than the one before.
func filesSettled(last, before, limit time.Duration) bool {
	return last <= limit || before > 0 && last > before*3/4
}

// ahead reports whether files are to be copied ahead once more.
func (v *move) ahead() bool {
	last, before := v.lastPasses()
	limit := v.settings.limits().Downtime / 2
	return len(v.sent()) > 0 && context.Cause(v.hurry) == nil && !filesSettled(last, before, limit)
}

// preCopyFiles copies files ahead of a freeze without any rounds of memory.
func (v *move) preCopyFiles(ctx context.Context) error {
	if len(v.sent()) == 0 {
		return nil
	}
	v.enter(migrate.PreCopy)
	if err := v.entry.Step(migrate.PreCopy, nil); err != nil {
		return err
	}
	for {
		if err := v.passFiles(ctx, false); err != nil || !v.ahead() {
			return err
		}
	}
}

// settleTrees takes up trees of which passes broke off.
func (v *move) settleTrees(at []transport.TreeAt) error {
	trees := v.sent()
	if len(at) != len(trees) {
		return fmt.Errorf("the target tells of %d file trees, of %d sent", len(at), len(trees))
	}
	for i, t := range trees {
		if err := t.sender.Settle(rootfs.Position(at[i])); err != nil {
			return err
		}
	}
	return nil
}

// finalPass makes the pass over the frozen tree's files while CRIU dumps. CRIU makes a
// directory in /tmp for a moment (open_mountpoint of mount.c), and may give names to
// files that have lost theirs: if that matters, the tree is looked at once more behind it.
func (d *dump) finalPass(ctx context.Context) error {
	if err := d.recheck(ctx); err != nil {
		return err
	}
	err := d.passFiles(ctx, true)
	if errors.Is(err, rootfs.ErrChanging) {
		d.again = true
		err = nil
	}
	return err
}

// endFiles brings the files to what they are now that CRIU is done, and returns how
// the target must have them.
func (d *dump) endFiles(ctx context.Context) ([]transport.TreeEnd, error) {
	trees := d.sent()
	if len(trees) == 0 {
		return nil, nil
	}
	linked, err := criu.LinksFiles(d.images)
	if err == nil && (linked || d.again || d.opts.Verify) {
		err = d.passFiles(ctx, true)
	}
	if err != nil {
		return nil, err
	}
	var ends []transport.TreeEnd
	for _, t := range trees {
		end := transport.TreeEnd{TreeAt: transport.TreeAt(t.sender.Position())}
		if d.opts.Verify {
			if end.Digest, err = rootfs.Digest(ctx, t.Path, t.kind); err != nil {
				return nil, err
			}
			d.report.VerifiedFiles += int64(t.Passes[len(t.Passes)-1].Entries)
		}
		ends = append(ends, end)
	}
	return ends, nil
}

// recheck demands that files which the target has as well, and which the workload
// could write to, are still what they were.
func (d *dump) recheck(ctx context.Context) error {
	for _, t := range d.trees {
		if t.Decision != migrate.TreeSame || t.fixed {
			continue
		}
		now, err := d.digestOf(ctx, t)
		if err != nil {
			return err
		}
		if now != t.digest {
			return &changedMount{t.Path}
		}
	}
	return nil
}

// changedMount is a file that was equal on both hosts, and is not any more.
type changedMount struct{ path string }

func (c *changedMount) Error() string {
	return c.path + " has changed since the target compared it with its own"
}

// Failure says what to do.
func (c *changedMount) Failure() migrate.Failure {
	return migrate.Failure{What: c.Error(), Advice: "move again, or send the directory above it with --sync"}
}
