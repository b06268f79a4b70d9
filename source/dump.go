package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"migrate"
	"migrate/criu"
	"migrate/internal/failpoint"
	"migrate/supervisor"
	"migrate/transport"
	"migrate/workload"
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
	err = d.child.Dump(dumpCtx, d.options, func(hookCtx context.Context, e criu.HookEvent) error {
		switch e.Hook {
		case criu.PreDump:
			return d.freeze(hookCtx)
		case criu.PostDump:
			return d.afterDump(hookCtx)
		}
		return nil
	})
	d.stop()
	if v.finishing {
		return nil // whatever CRIU says now: this copy is finished
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
	sender  *sender
	served  chan error
	conn    net.Conn
	wire    uint64
	round   int
	beside  errgroup.Group // what is done while CRIU dumps
	frozen  migrate.Workload
}

// startDump starts CRIU and its page server before anything is frozen.
func (v *move) startDump(ctx context.Context) (*dump, error) {
	ours, theirs, err := criu.PageSocket()
	if err != nil {
		return nil, err
	}
	child, err := v.tool.Start(ctx, criu.ChildOptions{Files: []*os.File{theirs}, Logger: v.log})
	theirs.Close()
	if err != nil {
		ours.Close()
		return nil, err
	}
	out, err := v.session.OpenPages(ctx)
	if err != nil {
		ours.Close()
		return nil, errors.Join(err, child.Close())
	}
	d := &dump{
		move: v, child: child, conn: ours, served: make(chan error, 1),
		round: len(v.report.Rounds) + 1, wire: v.session.BytesSent(),
	}
	d.options = d.dumpOptions()
	d.sender = newSender(ctx, out, d.round, v.codec())
	sink := &finalSink{sender: d.sender, table: v.table, done: &v.events.done}
	go func() { d.served <- criu.ServePages(ctx, ours, v.tool.Version, sink) }()
	v.events.round(d.round, v.facts.MemoryBytes)
	return d, nil
}

func (d *dump) dumpOptions() criu.DumpOptions {
	return criu.DumpOptions{
		PID: d.root, ImagesDir: d.images,
		ManageCgroupsMode: d.opts.ManageCgroupsMode, FreezeCgroup: d.group.Path(),
		ShellJob: d.facts.ShellJob, FileLocks: d.opts.FileLocks, LinkRemap: true,
		GhostLimit: d.opts.GhostLimit, TCPClose: d.opts.TCP == migrate.TCPClose,
		PageSocket: new(int), // the first of the child's files
		Timeout:    min(seizeTimeout, d.opts.FreezeTimeout),
		External:   supervisor.External(d.facts),
		Lock:       criu.LockSkip, // no established connection is carried
	}
}

// seizeTimeout is how long CRIU may take to stop the tasks of a frozen tree,
// which it does at once or not at all.
const seizeTimeout = 10 * time.Second

// stop ends everything that runs beside the dump, also after a failure; what
// went wrong there was told where it mattered.
func (d *dump) stop() {
	d.conn.Close()
	_, _ = d.sender.finish()
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
	if err := d.freezeTree(ctx); err != nil {
		return err
	}
	failpoint.Reach("source:frozen")
	d.enter(migrate.StopAndCopy)
	d.beside.Go(func() error { return d.entry.Step(migrate.StopAndCopy, nil) })
	d.beside.Go(func() (err error) {
		d.frozen, _, err = workload.Inspect(ctx, d.root)
		return err
	})
	return nil
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
	if err := <-d.served; err != nil {
		return fmt.Errorf("pages from criu: %w", err)
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
	images, err := d.shipImages(ctx)
	if err != nil {
		return err
	}
	digest, err := d.sender.finish()
	if err != nil {
		return err
	}
	if err := d.session.Send(ctx, transport.RoundEnd{
		Round: d.round, Streams: []transport.StreamDigest{digest}, Pages: digest.Pages, Final: true,
	}); err != nil {
		return err
	}
	r := d.sender.stats.Round
	r.Final = true
	d.addRound(d.timed(r, d.frozenSince, d.wire))
	d.enter(migrate.Restore)
	if err := d.entry.Step(migrate.Restore, nil); err != nil {
		return err
	}
	d.merge(d.frozen)
	between := d.diff.After(time.Since(d.compared))
	return d.session.Send(ctx, transport.Restore{
		Images: images, Workload: d.facts, FrozenAt: d.frozenAt, Timens: d.hasTimens(),
		Monotonic: bounds(between.Monotonic), Boottime: bounds(between.Boottime),
	})
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
