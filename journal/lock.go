package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
)

// ErrBusy says that a live process is deciding about the migration.
var ErrBusy = errors.New("a live process holds the migration")

// lock is an flock(2) on a file. It belongs to the open file, not to the
// process, so it keeps out a second user in the same process too.
type lock struct{ file *os.File }

func (l *lock) release() {
	if l != nil {
		l.file.Close()
	}
}

// How a lock is wanted.
const (
	exclusive = unix.LOCK_EX // to decide; makes the file
	shared    = unix.LOCK_SH // to look; fs.ErrNotExist without a file, so that asking for random IDs leaves nothing
)

// Somebody who only looks holds a shared lock for a moment. That is waited
// out, so that ErrBusy means what it says.
const (
	lockTries = 20
	lockPause = 5 * time.Millisecond
)

// lock takes the lock of a record, or returns ErrBusy.
func (j *Journal) lock(id migrate.ID, side migrate.Side, how int) (*lock, error) {
	path := filepath.Join(j.dir, lockName(id, side))
	for range lockTries {
		l, err := tryLock(path, how)
		if err == nil || (how == shared) || !errors.Is(err, ErrBusy) {
			return l, err
		}
		time.Sleep(lockPause)
	}
	return nil, fmt.Errorf("migration %s, %s side: %w", id, side, ErrBusy)
}

func tryLock(path string, how int) (*lock, error) {
	flags := os.O_RDONLY
	if how == exclusive {
		flags = os.O_RDWR | os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if err == nil && !isAt(f, path) {
		err = unix.EWOULDBLOCK // pruned between open and lock: whoever comes next has another file
	}
	if err == nil {
		return &lock{f}, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrBusy
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}

// isAt reports whether path still names the open file.
func isAt(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}
