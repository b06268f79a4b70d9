package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"migrate/internal/atomicfile"
)

// abandoned is the age at which a temporary file is one of a process that
// died while it wrote.
const abandoned = time.Hour

// Prune removes records that are over and have not changed for keep, and says
// how many. A peer that is still in doubt loses its answer then and needs an
// operator, so keep should be days. Damaged records are kept and reported as
// by [Journal.List].
func (j *Journal) Prune(keep time.Duration) (int, error) {
	list, err := j.List()
	errs := []error{err}
	pruned := 0
	for _, rec := range list {
		if !rec.Phase.Over() || time.Since(rec.Updated) < keep {
			continue
		}
		switch err := j.remove(rec); {
		case err == nil:
			pruned++
		case !errors.Is(err, ErrBusy):
			errs = append(errs, err)
		}
	}
	errs = append(errs, j.removeAbandoned(), atomicfile.SyncDir(j.dir))
	return pruned, errors.Join(errs...)
}

// remove removes a record and its lock file, the lock file last and while
// locked: see tryLock for those who opened it before.
func (j *Journal) remove(rec Record) error {
	l, err := j.lock(rec.ID, rec.Side, exclusive)
	if err != nil {
		return err
	}
	defer l.release()
	if err := os.Remove(j.path(rec.ID, rec.Side)); err != nil {
		return fmt.Errorf("pruning journal: %w", err)
	}
	return os.Remove(l.file.Name())
}

func (j *Journal) removeAbandoned() error {
	names, err := filepath.Glob(filepath.Join(j.dir, ".*.tmp-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		fi, err := os.Lstat(name)
		if err != nil || time.Since(fi.ModTime()) < abandoned || !strings.Contains(name, recordSuffix) {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
