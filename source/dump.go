package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"migrate"
	"migrate/criu"
	"migrate/internal/failpoint"
	"migrate/internal/priority"
	"migrate/predump"
	"migrate/supervisor"
	"migrate/transport"
)

// stopAndCopy freezes the tree and has CRIU dump it, pages straight into the
// QUIC stream. Everything up to the verdict happens while CRIU holds in its
// hooks: freezing in pre-dump, and restore, vote and commit in post-dump.
func (v *move) stopAndCopy(ctx context.Context) error {
	if err := v.compareClocks(ctx); err != nil { // again: clocks drift while memory is copied
		return err
	}
	d, err := v.startDump(ctx)
	if err != nil {
		return err
	}
	defer d.child.Close()
	dumpCtx, release := v.untilCommit(ctx)
	defer release()
	letOthers, err := v.alone(ctx)
	if err != nil {
		d.stop()
		return err
	}
	defer letOthers()
	err = d.child.Dump(dumpCtx, d.options, func(hookCtx context.Context, e criu.HookEvent) error {
		switch e.Hook {
		case criu.PreDump:
			return d.freeze(hookCtx)
		case criu.PostDump:
			letOthers()
			return d.afterDump(hookCtx)
		}
		return nil
	})
	d.stop()
	if v.finishing {
		return nil // whatever CRIU says now: this copy is finished
	}
	if err != nil && d.serving != nil {
		err = errors.Join(d.serving, err) // why CRIU could not go on
	}
	return err
}

// untilCommit returns a context that ends with ctx, but only up to the commit
// point: from there on neither a cancel nor a lost peer may make CRIU let the
// tree go.
func (v *move) untilCommit(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		v.gate.Lock()
		defer v.gate.Unlock()
		if !v.committed {
			cancel(context.Cause(ctx))
		}
	})
	return out, func() { stop(); cancel(nil) }
}

// A dump is CRIU at work on the frozen tree.
type dump struct {
	*move
	child   *criu.Child
	options criu.DumpOptions
	sink    *finalSink
	served  chan struct{} // closed when CRIU has closed its stream of pages
	serving error         // why it ended badly; valid then
	conn    net.Conn
	wire    uint64
	round   int
	beside  errgroup.Group // what is done while CRIU dumps
	frozen  migrate.Workload
	network json.RawMessage // as it is frozen; nil if none moves
	again   bool            // something changed under the final pass over the files
	tree    chan lookedAt   // what is known once the tree is frozen: from examine, and from stop
}

type lookedAt struct {
	frozenTree
	err error
}

// startDump starts CRIU and its page server before anything is frozen.
func (v *move) startDump(ctx context.Context) (*dump, error) {
	options, err := v.dumpOptions()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := criu.PageSocket()
	if err != nil {
		return nil, err
	}
	child, err := v.startCRIU(ctx, theirs)
	theirs.Close()
	if err != nil {
		ours.Close()
		return nil, err
	}
	out, err := v.openStreams(ctx)
	if err != nil {
		ours.Close()
		return nil, errors.Join(err, child.Close())
	}
	d := &dump{
		move: v, child: child, conn: ours, served: make(chan struct{}), tree: make(chan lookedAt, 2),
		round: len(v.report.Rounds) + 1, wire: v.wire(), options: options,
	}
	if v.parent != "" {
		d.options.TrackMem, d.options.Parent = true, v.parent
	}
	d.sink = &finalSink{
		final: v.path.BeginFinal(ctx, out, d.round, d.read), frozen: sync.OnceValues(d.look), parent: d.inParent,
		done: &v.events.done, verify: v.opts.Verify, changed: v.parent != "",
	}
	go func() {
		defer close(d.served)
		d.serving = priority.High(func() error { return criu.ServePages(ctx, ours, v.tool.Version, d.sink) })
	}()
	v.events.round(d.round, v.facts.MemoryBytes)
	return d, nil
}

// startCRIU starts a CRIU that lists pages, if it can do so after all.
func (v *move) startCRIU(ctx context.Context, pageSocket *os.File) (*criu.Child, error) {
	o := criu.ChildOptions{Files: []*os.File{pageSocket}, Listing: v.listing, Logger: v.log}
	child, err := v.tool.Start(ctx, o)
	if err == nil || !v.listing || ctx.Err() != nil {
		return child, err
	}
	v.log.Warn("CRIU will send every page to us", "cause", err)
	v.listing, o.Listing = false, false
	return v.tool.Start(ctx, o)
}

// inParent tells whether CRIU may list the pages of an image in place of
// sending them. Shared memory can be written to without any mapping of it.
func (d *dump) inParent(im criu.PageImage) bool {
	return im.Type == criu.TaskImage && (d.listing || d.parent != "" && d.table.Knows(predump.Image{Type: uint8(im.Type), ID: im.ID}))
}

// look waits for what is known of the frozen tree.
func (d *dump) look() (frozenTree, error) {
	t := <-d.tree
	return t.frozenTree, t.err
}

// read reads frozen memory.
func (d *dump) read(im predump.Image, address uint64, buf []byte) error {
	tree, err := d.sink.frozen()
	if err != nil {
		return err
	}
	return tree.read(im, address, buf)
}

func (v *move) dumpOptions() (criu.DumpOptions, error) {
	o := criu.DumpOptions{
		PID: v.root, ImagesDir: v.images,
		ManageCgroupsMode: v.opts.ManageCgroupsMode, FreezeCgroup: v.group.Path(),
		ShellJob: v.facts.ShellJob, FileLocks: v.opts.FileLocks, LinkRemap: true,
		GhostLimit: v.opts.GhostLimit, TCPClose: v.opts.TCP == migrate.TCPClose,
		PageSocket:     new(int), // the first of the child's files
		Timeout:        min(seizeTimeout, v.opts.FreezeTimeout),
		External:       supervisor.External(v.facts),
		Lock:           criu.LockSkip, // we lock ourselves what is to be locked
		TCPEstablished: v.opts.TCP == migrate.TCPEstablished,
	}
	v.containerOptions(&o)
	return o, v.networkOptions(&o)
}

// seizeTimeout is how long CRIU may take to stop the tasks of a frozen tree,
// which it does at once or not at all.
const seizeTimeout = 10 * time.Second

// stop ends everything that runs beside the dump, also after a failure; what
// went wrong there was told where it mattered.
func (d *dump) stop() {
	d.conn.Close()
	d.tree <- lookedAt{err: errors.New("the dump has ended")}
	<-d.served
	_, _ = d.sink.final.Finish()
	_ = d.beside.Wait()
}

// freeze journals, then stops every task of the tree by its cgroup. The
// frozen time begins before the first task stops.
func (d *dump) freeze(ctx context.Context) error {
	d.enter(migrate.Freeze)
	if err := d.entry.Step(migrate.Freeze, nil); err != nil {
		return err
	}
	time.AfterFunc(d.opts.FreezeTimeout, func() { d.cancel(errFreezeTimeout) }) // too late past the commit point
	// CRIU would take the limit for the workload's own.
	if err := d.unthrottle(ctx); err != nil {
		return err
	}
	if err := d.freezeTree(ctx); err != nil {
		return err
	}
	if err := d.lockNetwork(); err != nil {
		return err
	}
	failpoint.Reach("source:frozen")
	d.enter(migrate.StopAndCopy)
	tasks := d.tasks()
	code, err := readCodePages(tasks) // before CRIU touches a task
	if err != nil {
		return err
	}
	d.beside.Go(func() error { return d.entry.Step(migrate.StopAndCopy, nil) })
	d.beside.Go(func() error {
		tree, err := d.examine(ctx, tasks, code)
		d.tree <- lookedAt{tree, err}
		return err
	})
	d.beside.Go(func() error { return d.finalPass(ctx) })
	d.beside.Go(func() (err error) {
		d.frozen, err = d.describe()
		return err
	})
	d.beside.Go(func() (err error) {
		d.network, err = d.describeNetwork()
		return err
	})
	return nil
}

// examine asks the tracker what did not change, and looks where pages lie.
func (d *dump) examine(ctx context.Context, tasks []predump.Task, code codePages) (t frozenTree, err error) {
	t.clean, t.read = never{}, code.instead(readers(tasks))
	if d.tracker != nil {
		if t.clean, err = d.tracker.Freeze(ctx, tasks); err != nil {
			return t, fmt.Errorf("last look at what changed: %w", err)
		}
	}
	t.lazy = map[uint64]criu.LazyPages{}
	for _, task := range tasks {
		if t.lazy[uint64(task.VPID)], err = criu.ReadLazyPages(task.PID); err != nil {
			return t, err
		}
	}
	return t, nil
}

// afterDump runs while CRIU holds in post-dump: all images are written and
// every page is in the stream.
func (d *dump) afterDump(ctx context.Context) error {
	failpoint.Reach("source:post-dump")
	// CRIU thawed the cgroup to dump it: freeze it again, so that CRIU's own
	// death cannot let the tree run.
	if err := d.group.Freeze(ctx); err != nil {
		return err
	}
	<-d.served
	if d.serving != nil {
		return fmt.Errorf("pages from criu: %w", d.serving)
	}
	if err := d.ship(ctx); err != nil {
		return err
	}
	return d.decide(ctx)
}

// ship sends what is left, and asks the target to restore.
func (d *dump) ship(ctx context.Context) error {
	if err := d.beside.Wait(); err != nil {
		return err
	}
	trees, err := d.endFiles(ctx)
	if err != nil {
		return err
	}
	images, err := d.shipImages(ctx)
	if err != nil {
		return err
	}
	if err := d.verify(); err != nil {
		return err
	}
	digests, err := d.sink.final.Finish()
	if err != nil {
		return err
	}
	if err := d.session.Send(ctx, roundEnd(d.round, digests, true)); err != nil {
		return err
	}
	r := d.sink.final.Stats()
	r.Final = true
	d.addRound(d.timed(r, d.frozenSince, d.wire))
	d.enter(migrate.Restore)
	if err := d.entry.Step(migrate.Restore, nil); err != nil {
		return err
	}
	d.merge(d.frozen)
	between := d.diff.After(time.Since(d.compared))
	return d.session.Send(ctx, transport.Restore{
		Images: images, Workload: d.facts, FrozenAt: d.frozenAt, Timens: d.hasTimens(), Network: d.network,
		Monotonic: bounds(between.Monotonic), Boottime: bounds(between.Boottime), Trees: trees,
	})
}

// verify has the target compare what it holds with the frozen memory.
func (d *dump) verify() (err error) {
	if !d.opts.Verify {
		return nil
	}
	changed, err := criu.ReadRestartable(d.images)
	if err != nil {
		return err
	}
	d.report.Verified, err = d.sink.compareAll(changed)
	return err
}

// hasTimens tells whether CRIU wrote the tree's clocks, which it does where the
// kernel has time namespaces.
func (d *dump) hasTimens() bool {
	_, _, err := criu.ReadTimens(d.images)
	return err == nil
}

// merge takes the facts of the frozen tree, and keeps what only the record of
// a supervised workload knows.
func (v *move) merge(frozen migrate.Workload) {
	frozen.Kind, frozen.Name, frozen.Command, frozen.Dir = v.facts.Kind, v.facts.Name, v.facts.Command, v.facts.Dir
	frozen.Init, frozen.ShellJob = v.facts.Init, v.facts.ShellJob
	frozen.ID, frozen.Container, frozen.LogLimit = v.facts.ID, v.facts.Container, v.facts.LogLimit
	v.facts = frozen
}

// shipImages sends CRIU's small images, all but its log.
func (d *dump) shipImages(ctx context.Context) (transport.StreamDigest, error) {
	out, err := d.session.OpenFiles(ctx)
	if err != nil {
		return transport.StreamDigest{}, err
	}
	files, err := filepath.Glob(filepath.Join(d.images, "*.img"))
	if err != nil {
		return transport.StreamDigest{}, err
	}
	for _, path := range files {
		if err := shipFile(ctx, out, path); err != nil {
			return transport.StreamDigest{}, err
		}
	}
	return out.End(ctx)
}

func shipFile(ctx context.Context, out *transport.FileWriter, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return out.Add(ctx, filepath.Base(path), info.Size(), 0o600, f)
}
