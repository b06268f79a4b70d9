// Package atomicfile replaces files so that a crash at any moment leaves
// either the old content or the new, never a mixture and never nothing.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrNotFlushed is in an error of [WriteFile] if, and only if, path already
// holds the new content for everyone to see, but may not survive a power cut.
var ErrNotFlushed = errors.New("directory not flushed")

// WriteFile replaces path with data. When it returns nil the new content
// survives a power cut: the data are flushed, then renamed over path, then the
// directory is flushed (rename(2) alone orders nothing on disk). On an error
// path is unchanged and no temporary file is left, except for [ErrNotFlushed].
//
// The mode is exactly perm: the umask does not apply.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := fill(tmp, data, perm); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(tmp.Name()))
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(tmp.Name()))
	}
	if err := SyncDir(dir); err != nil {
		return fmt.Errorf("writing %s: %w: %w", path, ErrNotFlushed, err)
	}
	return nil
}

// SyncDir flushes the entries of a directory: the names made, renamed or
// removed in it survive a power cut once it returns nil.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("flushing directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("flushing directory: %w", err)
	}
	return nil
}

// fill writes, flushes and closes f.
func fill(f *os.File, data []byte, perm os.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
