package rootfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"migrate"
	"migrate/internal/atomicfile"
)

// Place is where a tree goes on the target, for one migration. What arrives is kept in a
// staging directory beside it, on the same file system, until Commit.
//
// The methods find out from the disk how far things are. Each may be called again, by
// another process and after a crash, until it returns nil. They are not safe for
// concurrent use on one place.
type Place struct {
	Path string     // absolute; its parent directory exists, it may or may not itself
	ID   migrate.ID // of the migration
}

// ErrNotStaged is in the error of Commit and Finish if there is no staging directory, or
// not yet a swapped one.
var ErrNotStaged = errors.New("no tree is staged")

// ErrFinished is in the error of Discard if Finish was called: the old tree may be gone.
var ErrFinished = errors.New("the tree is finished and cannot be taken back")

// Staging returns the path of the staging directory.
func (p Place) Staging() string {
	dir, base := filepath.Split(filepath.Clean(p.Path))
	return filepath.Join(dir, fmt.Sprintf(".migrate-%s-%016x", p.ID, xxh3.HashString(base)))
}

// Tree returns the path of the staged tree, and after Commit that of the old one.
func (p Place) Tree() string { return filepath.Join(p.Staging(), "tree") }

func (p Place) record() string { return filepath.Join(p.Staging(), "record.json") }

// record tells the staged tree from the old one: a rename keeps an inode's number.
type record struct {
	Inode    uint64 `json:"inode"`
	Finished bool   `json:"finished,omitempty"`
}

// Check returns an error if a tree cannot go there.
func (p Place) Check() error {
	if !filepath.IsAbs(p.Path) || filepath.Clean(p.Path) == "/" {
		return fmt.Errorf("staging %q: not an absolute path of a directory", p.Path)
	}
	if _, err := migrate.ParseID(string(p.ID)); err != nil {
		return fmt.Errorf("staging %s: %w", p.Path, err)
	}
	return p.replaceable()
}

// make creates an empty staging directory.
func (p Place) make() error {
	if err := p.Check(); err != nil {
		return err
	}
	if err := os.Mkdir(p.Staging(), 0o700); err != nil {
		return fmt.Errorf("staging %s: %w", p.Path, err)
	}
	if err := p.fill(); err != nil {
		return errors.Join(fmt.Errorf("staging %s: %w", p.Path, err), os.RemoveAll(p.Staging()))
	}
	return nil
}

func (p Place) fill() error {
	for _, dir := range []string{p.Tree(), p.aside()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	st, _, err := statAt(unix.AT_FDCWD, p.Tree())
	if err != nil {
		return err
	}
	if err := p.write(record{Inode: st.id.ino}); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(p.Staging()))
}

// aside is where files are put that lose their name and shall get another.
func (p Place) aside() string { return filepath.Join(p.Staging(), "aside") }

func (p Place) write(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(p.record(), append(b, '\n'), 0o600)
}

// replaceable returns an error if what is at the place cannot be swapped by a rename.
func (p Place) replaceable() error {
	st, flags, err := statAt(unix.AT_FDCWD, filepath.Clean(p.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at %s: %w", p.Path, err)
	case st.kind != directory:
		return fmt.Errorf("%s is there and is no directory", p.Path)
	case flags&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return fmt.Errorf("%w: at %s itself, which therefore cannot be replaced", ErrMount, p.Path)
	}
	return nil
}

// where says how far a place is.
type where int

const (
	nowhere  where = iota // no staging directory
	unmade                // one that was not completed, or is being removed: the place is as it was
	staged                // the tree is in the staging directory
	swapped               // the tree is at the place
	finished              // so it is, and the old one is being removed
)

func (p Place) where() (where, error) {
	if _, err := os.Lstat(p.Staging()); errors.Is(err, fs.ErrNotExist) {
		return nowhere, nil
	}
	b, err := os.ReadFile(p.record())
	if errors.Is(err, fs.ErrNotExist) {
		return unmade, nil
	}
	var r record
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return 0, fmt.Errorf("reading what is staged for %s: %w", p.Path, err)
	}
	switch {
	case r.Finished:
		return finished, nil
	case p.has(p.Tree(), r.Inode):
		return staged, nil
	case p.has(p.Path, r.Inode):
		return swapped, nil
	case p.missing(p.Tree()): // being removed
		return unmade, nil
	}
	return 0, fmt.Errorf("neither %s nor %s is the tree that was staged: something else changed them", p.Path, p.Tree())
}

// has reports whether the directory at path is the inode.
func (p Place) has(path string, ino uint64) bool {
	st, _, err := statAt(unix.AT_FDCWD, path)
	parent, _, err2 := statAt(unix.AT_FDCWD, p.Staging())
	return err == nil && err2 == nil && st.id == inode{parent.id.dev, ino}
}

func (p Place) missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// Commit puts the staged tree at the place, with one rename. What is there is kept in
// the staging directory until [Place.Finish]. It does not flush: [Stage.Sync] does.
func (p Place) Commit() error {
	at, err := p.where()
	switch {
	case err != nil:
		return err
	case at == swapped || at == finished:
		return nil
	case at != staged:
		return fmt.Errorf("putting the files at %s: %w", p.Path, ErrNotStaged)
	}
	if err := p.replaceable(); err != nil {
		return err
	}
	if err := p.swap(p.Tree(), p.Path); err != nil {
		return fmt.Errorf("putting the files at %s: %w", p.Path, err)
	}
	return nil
}

// swap renames from to to, and what is at to, if anything, to from.
func (p Place) swap(from, to string) error {
	flags := uint(unix.RENAME_EXCHANGE)
	if p.missing(to) {
		flags = unix.RENAME_NOREPLACE
	}
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
}

// Discard puts back what was at the place, and removes all that was staged. It does
// nothing if nothing is.
func (p Place) Discard() error {
	at, err := p.where()
	if err == nil && at == swapped {
		err = p.swap(p.Path, p.Tree())
	}
	switch {
	case err != nil:
		return fmt.Errorf("taking the files at %s back: %w", p.Path, err)
	case at == nowhere:
		return nil
	case at == finished:
		return fmt.Errorf("taking the files at %s back: %w", p.Path, ErrFinished)
	}
	return p.clear()
}

// Finish removes the old tree, after Commit. From the moment it begins there is no way
// back. It does nothing if that has been done.
func (p Place) Finish() error {
	at, err := p.where()
	if err == nil && at == swapped {
		err = p.write(record{Finished: true})
	}
	switch {
	case err != nil:
		return fmt.Errorf("finishing the files at %s: %w", p.Path, err)
	case at == nowhere:
		return nil
	case at == staged || at == unmade:
		return fmt.Errorf("finishing the files at %s: %w", p.Path, ErrNotStaged)
	}
	return p.clear()
}

// clear removes the staging directory, the record last.
func (p Place) clear() error {
	for _, path := range []string{p.Tree(), p.aside(), p.record(), p.Staging()} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing what was staged for %s: %w", p.Path, err)
		}
	}
	return atomicfile.SyncDir(filepath.Dir(p.Staging()))
}
