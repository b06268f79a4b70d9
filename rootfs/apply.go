package rootfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// application is one pass being applied.
type application struct {
	*Stage
	r      *frameReader
	final  bool
	order  string // the last path
	begun  bool   // there is one
	adding bool   // Entries have begun
	step   bool   // one is under way
	others *dirs  // for the other name of a link
	totals totals
	reused int64

	// The regular file of the last Entry.
	now      int // descriptor; -1 for none
	nowDir   int // descriptor of its directory
	entry    *entry
	written  int64 // offset up to which its content came
	before   int64 // bytes that were allocated
	charged  int64 // bytes that came since, counted as allocated
	old      *blocks
	oldTree  *dirs
	oldFile  int
	hasOldFD bool
}

func (a *application) close() {
	a.closeFile()
	for _, d := range []*dirs{a.others, a.oldTree} {
		if d != nil {
			d.close()
		}
	}
}

// closeFile gives up the descriptors of the current file.
func (a *application) closeFile() {
	if a.now >= 0 {
		unix.Close(a.now)
		a.now = -1
	}
	if a.hasOldFD {
		unix.Close(a.oldFile)
		a.hasOldFD, a.old = false, nil
	}
}

func (a *application) run(ctx context.Context) error {
	s, err := a.r.start()
	switch {
	case err != nil:
		return err
	case s.stream == offerStream || s.tree != a.options.Kind:
		return fmt.Errorf("%w: stream of type %d with a tree of kind %d", ErrRefused, s.stream, s.tree)
	case s.pass <= a.at.Pass:
		return fmt.Errorf("%w: pass %d after pass %d", ErrRefused, s.pass, a.at.Pass)
	}
	a.final, a.at = s.stream == finalStream, Position{Pass: s.pass}
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		t, b, err := a.r.next()
		if err != nil {
			return err
		}
		switch t {
		case frameRemove, frameTake, frameEntry:
			err = a.begin(t, b)
		case frameData, frameReuse, frameHole:
			err = a.content(t, b)
		case frameEnd:
			if err := a.complete(); err != nil {
				return err
			}
			return a.r.finish(b, a.totals)
		default:
			err = fmt.Errorf("%w: frame of type %#02x in a pass", ErrRefused, uint8(t))
		}
		if err != nil {
			return err
		}
	}
}

// begin ends the step under way and does the next, up to the content of a file.
func (a *application) begin(t frameType, b []byte) error {
	if err := a.complete(); err != nil {
		return err
	}
	a.step = true
	a.totals.ops++
	switch t {
	case frameRemove:
		return a.remove(string(b), "")
	case frameTake:
		slot, path, err := parseTake(b)
		if err != nil {
			return err
		}
		return a.remove(path, slotName(slot))
	}
	e, err := parseEntry(b)
	if err == nil {
		err = a.check(e)
	}
	if err == nil {
		err = a.do(e)
	}
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%w: it is there already", ErrRefused)
	}
	if err != nil && e != nil {
		return fmt.Errorf("%.200q: %w", e.path, err)
	}
	return err
}

// complete ends the step under way.
func (a *application) complete() error {
	if !a.step {
		return nil
	}
	if a.now >= 0 {
		if err := a.finishFile(); err != nil {
			return fmt.Errorf("%.200q: %w", a.entry.path, err)
		}
	}
	a.step = false
	a.at.Steps++
	return nil
}

func slotName(slot uint32) string { return strconv.FormatUint(uint64(slot), 10) }

// inOrder checks that paths come in the tree's order, and in reverse for names
// that go. So none comes twice, and a directory before what is in it.
func (a *application) inOrder(path string, adding bool) error {
	if path != "" || !adding {
		if err := checkPath(path); err != nil {
			return err
		}
	}
	switch {
	case a.adding && !adding:
		return fmt.Errorf("%w: %.200q is removed after an entry", ErrRefused, path)
	case adding && !a.adding, !a.begun:
	case adding && comparePaths(a.order, path) >= 0, !adding && comparePaths(a.order, path) <= 0:
		return fmt.Errorf("%w: %.200q comes after %.200q", ErrRefused, path, a.order)
	}
	a.order, a.begun, a.adding = path, true, adding
	return nil
}

// remove takes a name away. Where the source does not know whether it is there, it may
// not be. With a slot, the file, a regular one, is put aside.
func (a *application) remove(path, slot string) error {
	if err := a.inOrder(path, false); err != nil {
		return err
	}
	dirfd, name, err := a.tree.at(path)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	a.tree.last().touched = true
	if slot == "" {
		err = a.unlink(dirfd, name)
	} else if st, _, e := statAt(dirfd, name); e != nil || st.kind != regular {
		err = errors.Join(fmt.Errorf("%w: no regular file to put aside", ErrRefused), e)
	} else {
		err = unix.Renameat2(dirfd, name, a.aside, slot, unix.RENAME_NOREPLACE)
	}
	if errors.Is(err, unix.ENOTEMPTY) {
		err = fmt.Errorf("%w: it is not empty", ErrRefused)
	}
	if err != nil {
		return fmt.Errorf("removing %.200q: %w", path, err)
	}
	return nil
}

// check refuses an entry that makes no sense or is not allowed.
func (a *application) check(e *entry) error {
	if err := a.inOrder(e.path, true); err != nil {
		return err
	}
	var why string
	switch {
	case e.kind < regular || e.kind > blockDevice:
		why = "of an unknown kind"
	case e.verb < create || e.verb > link:
		why = "with an unknown verb"
	case e.path == "" && (e.kind != directory || e.verb != update):
		why = "that would replace the root"
	case e.kind == directory && e.verb > update, e.verb == place && e.kind != regular:
		why = "that a directory or special file cannot have"
	case e.mode > 0o7777 || e.mtime.nsec >= 1e9:
		why = "with an impossible mode or time"
	case e.size < 0 || e.size > 0 && e.kind != regular || e.size > a.options.Limits.FileSize:
		why = fmt.Sprintf("of %d bytes", e.size)
	case (e.kind == symlink && e.verb != link) != (e.target != "") || len(e.target) > maxTarget || strings.ContainsRune(e.target, 0):
		why = "with an impossible link target"
	case e.verb == link && len(e.xattrs) > 0:
		why = "that gives a link attributes"
	case e.verb != link && !a.mayHave(e):
		why = fmt.Sprintf("for device %d:%d, which this host does not allow", e.rdev.major, e.rdev.minor)
	default:
		return a.checkXattrs(e)
	}
	return fmt.Errorf("%w: entry %s", ErrRefused, why)
}

func (a *application) checkXattrs(e *entry) error {
	for _, x := range e.xattrs {
		special := e.kind != regular && e.kind != directory && strings.HasPrefix(x.name, "user.") // xattr(7) has none
		if special || !a.options.Kind.carried(x.name) || strings.ContainsRune(x.name, 0) {
			return fmt.Errorf("%w: extended attribute %.100q", ErrRefused, x.name)
		}
	}
	return nil
}

// mayHave reports whether the device number of an entry is allowed.
func (a *application) mayHave(e *entry) bool {
	if e.kind != charDevice && e.kind != blockDevice {
		return e.rdev == device{}
	}
	if e.kind == charDevice && e.rdev == (device{}) && a.options.Kind != Plain {
		return true // a whiteout
	}
	return slices.Contains(a.options.Devices, Device{e.kind == blockDevice, e.rdev.major, e.rdev.minor})
}

// do makes or changes what an entry says. The content and attributes of a regular file
// follow.
func (a *application) do(e *entry) error {
	dirfd, name, err := a.tree.at(e.path)
	if gone(err) {
		return fmt.Errorf("%w: its directory is not there: %w", ErrRefused, err)
	}
	if err != nil {
		return err
	}
	switch e.verb {
	case create:
		err = a.create(dirfd, name, e)
	case link:
		return a.link(dirfd, name, e)
	case place:
		a.tree.last().touched = true
		err = unix.Renameat2(a.aside, slotName(e.slot), dirfd, name, unix.RENAME_NOREPLACE)
		if gone(err) {
			err = fmt.Errorf("%w: no file was put aside for it", ErrRefused)
		}
		if err == nil {
			err = a.open(dirfd, name, e)
		}
	case update:
		err = a.open(dirfd, name, e)
	}
	if err != nil || e.kind == regular {
		return err
	}
	if e.path == "" {
		a.tree.last().times[1] = timespec(e.mtime)
	}
	return a.writeAttrs(dirfd, name, e)
}

// count checks that one more name is allowed.
func (a *application) count() error {
	if a.entries >= a.options.Limits.Entries {
		return &FullError{What: FullCount, Path: a.place.Staging()}
	}
	a.entries++
	return nil
}

// create makes a file that is not there.
func (a *application) create(dirfd int, name string, e *entry) error {
	if err := a.count(); err != nil {
		return err
	}
	a.tree.last().touched = true
	var err error
	switch e.kind {
	case regular:
		var fd int
		if fd, err = openBeneath(dirfd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600); err == nil {
			return a.setFile(fd, dirfd, e, 0)
		}
	case directory:
		err = unix.Mkdirat(dirfd, name, 0o700)
	case symlink:
		err = unix.Symlinkat(e.target, dirfd, name)
	default:
		err = unix.Mknodat(dirfd, name, formats[e.kind]|0o600, int(unix.Mkdev(e.rdev.major, e.rdev.minor)))
	}
	return err
}

// open prepares to change what is there.
func (a *application) open(dirfd int, name string, e *entry) error {
	st, _, err := statAt(dirfd, name)
	if err == nil && st.kind == e.kind && e.kind != regular {
		return nil
	}
	if gone(err) || err == nil && st.kind != e.kind {
		return fmt.Errorf("%w: what it changes is not there", ErrRefused)
	}
	if err != nil {
		return err
	}
	fd, err := openBeneath(dirfd, name, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	return a.setFile(fd, dirfd, e, st.size)
}

// link makes one more name of a file in the tree.
func (a *application) link(dirfd int, name string, e *entry) error {
	if err := checkPath(e.to); err != nil {
		return err
	}
	if err := a.count(); err != nil {
		return err
	}
	var err error
	if a.others == nil {
		if a.others, err = openDirs(a.place.Tree(), true); err != nil {
			return err
		}
	}
	dir, other := split(e.to)
	otherfd, err := a.others.enter(dir)
	var st stat
	if err == nil {
		st, _, err = statAt(otherfd, other)
	}
	if gone(err) || err == nil && (st.kind != e.kind || st.kind == directory) {
		return fmt.Errorf("%w: link to %.200q, which is no such file of the tree", ErrRefused, e.to)
	}
	if err != nil {
		return err
	}
	a.tree.last().touched = true
	return unix.Linkat(otherfd, other, dirfd, name, 0)
}
