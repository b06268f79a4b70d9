package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"migrate"
)

// Journal is a directory of records. It is safe for concurrent use, also by
// several processes.
type Journal struct{ dir string }

// Open opens the journal in dir and makes the directory if need be.
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	return &Journal{dir}, nil
}

// Begin writes a first record and holds its lock until the entry is closed or
// the process ends. Started and Status may be left to it. A record that is
// there already, readable or not, is fs.ErrExist: IDs are never used twice.
func (j *Journal) Begin(rec Record) (*Entry, error) {
	now := time.Now()
	rec.Updated = now
	rec.Status = cmp.Or(rec.Status, migrate.StatusActive)
	if rec.Started.IsZero() {
		rec.Started = now
	}
	if err := rec.validate(); err != nil {
		return nil, fmt.Errorf("beginning journal record: %w", err)
	}
	l, err := j.lock(rec.ID, rec.Side, exclusive)
	if err != nil {
		return nil, err
	}
	e := &Entry{path: j.path(rec.ID, rec.Side), lock: l}
	if err := e.first(rec); err != nil {
		l.release()
		return nil, err
	}
	return e, nil
}

// Take returns the entry of a dead process, to recover it: the caller now
// decides. [ErrBusy] if a live process does, fs.ErrNotExist without a record, a
// [*DamagedError] if it cannot be read.
func (j *Journal) Take(id migrate.ID, side migrate.Side) (*Entry, error) {
	if _, err := j.Get(id, side); err != nil {
		return nil, err
	}
	l, err := j.lock(id, side, exclusive)
	if err != nil {
		return nil, err
	}
	rec, err := j.Get(id, side) // again: it may have moved on before we had the lock
	if err != nil {
		l.release()
		return nil, err
	}
	return &Entry{path: j.path(id, side), lock: l, rec: rec}, nil
}

// Get returns a record as it is on disk. The errors are those of Take, but for
// ErrBusy.
func (j *Journal) Get(id migrate.ID, side migrate.Side) (Record, error) {
	return read(j.path(id, side))
}

// List returns every record, the newest first. Damaged ones are not in the
// list but in the error, joined, each a [*DamagedError]; the list is good also
// then.
func (j *Journal) List() ([]Record, error) {
	names, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("listing journal: %w", err)
	}
	var list []Record
	var errs []error
	for _, n := range names {
		if strings.HasPrefix(n.Name(), ".") || !strings.HasSuffix(n.Name(), recordSuffix) {
			continue // a lock, or the temporary file of a write
		}
		rec, err := read(filepath.Join(j.dir, n.Name()))
		switch {
		case err == nil:
			list = append(list, rec)
		case !errors.Is(err, fs.ErrNotExist): // else pruned meanwhile
			errs = append(errs, err)
		}
	}
	slices.SortStableFunc(list, func(a, b Record) int { return b.Started.Compare(a.Started) })
	return list, errors.Join(errs...)
}

func (j *Journal) path(id migrate.ID, side migrate.Side) string {
	return filepath.Join(j.dir, recordName(id, side))
}

// read reads one record.
func read(path string) (Record, error) {
	if _, _, ok := splitName(filepath.Base(path)); !ok {
		return Record{}, &DamagedError{path, errors.New("not the name of a record")}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Record{}, fmt.Errorf("reading journal: %w", err)
	}
	rec, err := decode(filepath.Base(path), b)
	if err != nil {
		return Record{}, &DamagedError{path, err}
	}
	return rec, nil
}
