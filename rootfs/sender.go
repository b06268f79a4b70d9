package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// How long before a pass a file must have been changed last to be trusted to change
// its times if it changes again. Times come from a clock that ticks every 1 to 10 ms,
// and a write(2) sets them before it writes: one that is under way may end much later.
const (
	settledAfter      = time.Second
	settledAfterOpen  = time.Minute     // of a file that is open for writing
	settledAfterRound = 2 * time.Second // on a file system that keeps no fractions
)

// timely are the file systems on which a change through a mapping, too, sets a file's
// times, by this host's clock (file_update_time in their page_mkwrite). On tmpfs it does not (tried on
// Linux 6.18), ZFS does it when it writes back, and on NFS the clock is the server's.
var timely = []int64{
	unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC,
}

// Used is a file that the workload has in use in a way that can change it without its
// times telling: it writes to it, or has it mapped.
type Used struct {
	Path   string // below the tree, without a leading slash; "" stands for every file, a name that is not there for none
	Mapped bool   // mapped shared and writable; else only open for writing
}

// PassOptions are those of [Sender.Pass].
type PassOptions struct {
	// Final says that the workload is frozen, and nothing else writes to the tree. It
	// is an error then if the tree changes.
	Final bool
	// Used is called once, at the start, before the tree is looked at. Nil stands for a
	// workload that has nothing open or mapped. It must be given in every pass or none:
	// what it names now is read again in the next pass.
	Used func(context.Context) ([]Used, error)
}

// Stats say what a pass did.
type Stats struct {
	Pass    int           // from 1
	Entries int           // names in the tree, its root included
	Changes int           // steps sent
	Read    int64         // bytes of content that were looked at
	Data    int64         // bytes of content sent
	Reused  int64         // bytes of content that the target had
	Sockets int           // left out: who listens makes them
	Missed  int           // names that vanished or changed under the pass; the next one gets them
	Walk    time.Duration // looking at all names
	Took    time.Duration // all of it
}

// Position is how far a target has come: the steps that it has done of its last pass.
// It is what an acknowledgement, or the answer to a peer that comes back, holds.
type Position struct {
	Pass  uint32 `json:"pass"` // 0 before the first
	Steps uint64 `json:"steps"`
}

// Sender sends the tree of one workload to one target. It is not safe for
// concurrent use. It holds what the target has in memory: some 300 bytes for each
// name, and 24 for each 128 KiB of content.
type Sender struct {
	root string
	kind Kind
	look bool // the file system's times cannot be trusted

	have    []known
	lost    []string
	offered map[string][]blockSum
	pass    uint32
	at      Position // of the target, as told last
	log     []op     // of the pass that is not settled
	open    bool     // there is one
}

// NewSender prepares to send the tree at root, a directory.
func NewSender(root string, kind Kind) (*Sender, error) {
	if err := kind.check(); err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return nil, fmt.Errorf("looking at the file system of %s: %w", root, err)
	}
	look := !slices.Contains(timely, st.Type)
	top := &object{state: state{attrs: attrs{kind: directory}}, unsure: true} // a stage has it from the start
	return &Sender{root: path.Clean(root), kind: kind, look: look, have: []known{{"", top}}}, nil
}

// Position returns how far the target has come, as it was settled last.
func (s *Sender) Position() Position { return s.at }

// Settle tells how far the target has come with the pass that was sent last. It must
// be called before the next pass, whether this one succeeded or not. An offer that was
// not used by then is forgotten.
func (s *Sender) Settle(at Position) error {
	switch {
	case at == s.at: // it never heard of the pass
		s.log = nil
	case !s.open || at.Pass != s.pass || at.Steps > uint64(len(s.log)):
		return fmt.Errorf("%w: the target is at step %d of pass %d, which is not where it can be", ErrRefused, at.Steps, at.Pass)
	}
	s.have, s.lost = replay(s.have, s.lost, s.log, at.Steps)
	s.at, s.log, s.open, s.offered = at, nil, false, nil
	return nil
}

// Pass sends to w what the target does not have, and ends the stream with a frame of
// its own; it does not close w. The first pass sends the whole tree.
//
// After an error the target's tree is in between: settle with its [Position] and send
// another pass, or give the move up.
func (s *Sender) Pass(ctx context.Context, w io.Writer, o PassOptions) (Stats, error) {
	if s.open {
		return Stats{}, fmt.Errorf("pass %d is not settled", s.pass)
	}
	begun := time.Now()
	p := &passage{Sender: s, w: newFrameWriter(w), final: o.Final, begun: begun, used: map[string]bool{}}
	if err := p.askUsed(ctx, o.Used); err != nil {
		return Stats{}, err
	}
	sc, err := walk(ctx, s.root)
	if err != nil {
		return Stats{}, err
	}
	if len(sc.mounts) > 0 {
		return Stats{}, fmt.Errorf("%w: at %.200q", ErrMount, sc.mounts[0])
	}
	p.stats = Stats{Pass: int(s.pass) + 1, Entries: len(sc.entries), Sockets: sc.sockets, Missed: sc.vanished, Walk: time.Since(begun)}
	if p.tree, err = openDirs(s.root, true); err != nil {
		return Stats{}, err
	}
	defer p.tree.close()
	s.pass++
	s.open = true
	err = p.run(ctx, makePlan(s.have, sc.entries, s.lost))
	p.stats.Took, p.stats.Changes = time.Since(begun), len(s.log)
	if err != nil {
		return p.stats, fmt.Errorf("pass %d over %s: %w", s.pass, s.root, err)
	}
	return p.stats, nil
}

// passage is one pass under way.
type passage struct {
	*Sender
	w     *frameWriter
	tree  *dirs
	final bool
	begun time.Time
	used  map[string]bool // whether it is mapped
	gone  string          // a directory that vanished and is not on the target; "" for none
	stats Stats
	data  uint64 // bytes sent
}

func (p *passage) askUsed(ctx context.Context, ask func(context.Context) ([]Used, error)) error {
	if ask == nil {
		return nil
	}
	list, err := ask(ctx)
	if err != nil {
		return fmt.Errorf("listing files in use: %w", err)
	}
	for _, u := range list {
		p.used[u.Path] = p.used[u.Path] || u.Mapped
	}
	return nil
}

func (p *passage) run(ctx context.Context, todo plan) error {
	stream := uint8(passStream)
	if p.final {
		stream = finalStream
	}
	if err := p.w.start(start{tree: p.kind, stream: stream, pass: p.pass}); err != nil {
		return err
	}
	for _, r := range todo.removals {
		if err := p.remove(r); err != nil {
			return err
		}
	}
	for i := range todo.items {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := p.send(ctx, &todo.items[i]); err != nil {
			return err
		}
	}
	if p.final && p.stats.Missed > 0 {
		return ErrChanging
	}
	return p.w.finish(totals{ops: uint64(len(p.log)), data: p.data})
}

func (p *passage) remove(r removal) error {
	p.log = append(p.log, op{path: r.path})
	if r.slot != 0 {
		return p.w.take(r.slot, r.path)
	}
	return p.w.remove(r.path)
}

// send brings one name of the tree to the target, if it needs to.
func (p *passage) send(ctx context.Context, it *item) error {
	if p.gone != "" && isWithin(it.path, p.gone) {
		p.miss(it)
		return nil
	}
	if it.group == nil {
		return p.sendOnce(ctx, it)
	}
	g := it.group
	g.unsure = g.unsure || p.unsure(it.path, it.ctime)
	err := p.sendOnce(ctx, it)
	if g.object != nil {
		g.object.unsure = g.object.unsure || g.unsure
	}
	return err
}

// sendOnce sends a name unless the target has it, or its file was sent by another name.
func (p *passage) sendOnce(ctx context.Context, it *item) error {
	if it.old != nil && !it.old.unsure && it.old.equalStat(&it.stat) && !p.looksAt(it) {
		return nil
	}
	if g := it.group; g != nil {
		switch {
		case it.old == nil && g.leader != "":
			return p.link(it)
		case it.old != nil && g.done:
			return nil
		}
	}
	var err error
	if it.kind == regular {
		err = p.sendFile(ctx, it)
	} else {
		err = p.sendOther(it)
	}
	if gone(err) {
		p.miss(it)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%.200q: %w", it.path, err)
	}
	return nil
}

// looksAt reports whether a file's content is compared whatever its times are.
func (p *passage) looksAt(it *item) bool {
	return it.kind == regular && (p.look || p.final && (p.used[it.path] || p.used[""]))
}

// miss notes a name that vanished or became something else since the walk.
func (p *passage) miss(it *item) {
	p.stats.Missed++
	switch {
	case it.group != nil:
		it.group.unsure = true
	case it.old != nil:
		it.old.unsure = true
	default:
		p.gone = it.path
	}
}

func (p *passage) link(it *item) error {
	g := it.group
	p.log = append(p.log, op{verb: link, path: it.path, obj: g.object})
	return p.w.entry(&entry{verb: link, path: it.path, to: g.leader, attrs: attrs{kind: it.kind}})
}

// unsure decides whether the file may change, or may have changed, without its times
// telling. The name may be one of many.
func (p *passage) unsure(path string, ctime stamp) bool {
	mapped, open := p.used[path]
	if every, any := p.used[""]; any {
		mapped, open = mapped || every, true
	}
	since := settledAfter
	switch {
	case mapped:
		return true
	case open:
		since = settledAfterOpen
	case ctime.nsec == 0:
		since = settledAfterRound
	}
	return !time.Unix(ctime.sec, int64(ctime.nsec)).Before(p.begun.Add(-since))
}

// sendOther sends anything that has no content: a directory, a link, a device.
func (p *passage) sendOther(it *item) error {
	fd, name, err := p.tree.at(it.path)
	if err != nil {
		return err
	}
	now := state{attrs: it.attrs(), id: it.id, ctime: it.ctime}
	if it.kind == symlink {
		if now.target, err = readLink(fd, name); err != nil {
			return err
		}
	}
	if now.xattrs, _, err = p.kind.readXattrs(fd, name); err != nil {
		return err
	}
	if err := p.same(fd, name, &it.stat); err != nil {
		return err
	}
	return p.record(it, now, nil)
}

// same returns ENOENT if a name does not stand for what it did when it was looked at, so
// that what was read of it since may be another file's. A file or directory that is
// only changed is the same, until the final pass.
func (p *passage) same(dirfd int, name string, was *stat) error {
	if name == "." {
		name = ""
	}
	now, _, err := statAt(dirfd, name)
	hot := !p.final && (was.kind == regular || was.kind == directory)
	if err == nil && (now.id != was.id || now.kind != was.kind || !hot && now.ctime != was.ctime) {
		return unix.ENOENT
	}
	return err
}

func readLink(dirfd int, name string) (string, error) {
	buf := make([]byte, maxTarget+1)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if errors.Is(err, unix.EINVAL) { // not a link any more
		err = unix.ENOENT
	}
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
