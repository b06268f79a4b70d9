package testload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const fileSize = 16 * pageSize

// files are one that is read on, one that is appended to, and one that is
// deleted and still open. The first two must be on the target as well, unless
// there is only the deleted one.
type files struct {
	mu       sync.Mutex
	dir      string
	own      bool // dir is removed at the end
	content  []byte
	read     *os.File
	offset   int64 // where read must be
	appended *os.File
	deleted  *os.File
	records  uint64
}

func newFiles(dir string, onlyDeleted bool, gen generator) (*files, error) {
	f := &files{dir: dir, content: make([]byte, fileSize)}
	for i := range fileSize / pageSize {
		gen.page(f.content[i*pageSize:(i+1)*pageSize], uint64(i), 1<<32)
	}
	var err error
	if dir == "" {
		f.own = true
		if f.dir, err = os.MkdirTemp("", "testload"); err != nil {
			return nil, err
		}
	}
	if !onlyDeleted {
		err = f.openKept()
	}
	if err := errors.Join(err, f.openDeleted()); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

const truncated = os.O_CREATE | os.O_TRUNC | os.O_RDWR

func (f *files) openKept() error {
	name := filepath.Join(f.dir, "read")
	err := os.WriteFile(name, f.content, 0o600)
	if err != nil {
		return err
	}
	if f.read, err = os.Open(name); err != nil {
		return err
	}
	f.appended, err = os.OpenFile(filepath.Join(f.dir, "appended"), truncated|os.O_APPEND, 0o600)
	return err
}

func (f *files) openDeleted() (err error) {
	name := filepath.Join(f.dir, "deleted")
	if f.deleted, err = os.OpenFile(name, truncated, 0o600); err != nil {
		return err
	}
	if _, err := f.deleted.Write(f.content); err != nil {
		return err
	}
	return os.Remove(name)
}

// watch uses the files for ever.
func (f *files) watch(fail func(error)) {
	for {
		if err := f.step(); err != nil {
			fail(err)
			return // each further step would fail as well
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// step reads a bit, appends a record and looks at the deleted file.
func (f *files) step() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.read == nil {
		return f.checkDeleted()
	}
	if err := f.readOn(); err != nil {
		return fmt.Errorf("open file: %w", err)
	}
	f.records++
	if _, err := f.appended.Write(binary.BigEndian.AppendUint64(nil, f.records)); err != nil {
		return fmt.Errorf("appended file: %w", err)
	}
	if at, err := f.appended.Seek(0, io.SeekCurrent); err != nil || at != int64(8*f.records) {
		return fmt.Errorf("appended file: at %d after %d records, %w", at, f.records, err)
	}
	return f.checkDeleted()
}

// readOn reads where the last call ended; the offset is the kernel's to keep.
func (f *files) readOn() error {
	b := make([]byte, 1024)
	if _, err := io.ReadFull(f.read, b); err != nil {
		return err
	}
	if !bytes.Equal(b, f.content[f.offset:f.offset+int64(len(b))]) {
		return fmt.Errorf("content at offset %d has changed", f.offset)
	}
	if f.offset += int64(len(b)); f.offset < fileSize {
		return nil
	}
	f.offset = 0
	_, err := f.read.Seek(0, io.SeekStart)
	return err
}

func (f *files) checkDeleted() error {
	b := make([]byte, fileSize)
	if _, err := f.deleted.ReadAt(b, 0); err != nil {
		return fmt.Errorf("deleted file: %w", err)
	}
	if !bytes.Equal(b, f.content) {
		return errors.New("deleted file: content has changed")
	}
	return nil
}

// checkAll reads every record that was ever appended.
func (f *files) checkAll() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.appended == nil {
		return f.checkDeleted()
	}
	b := make([]byte, 8*f.records)
	if n, err := f.appended.ReadAt(b, 0); err != nil {
		return fmt.Errorf("appended file: %d of %d bytes: %w", n, len(b), err)
	}
	for i := range f.records {
		if got := binary.BigEndian.Uint64(b[8*i:]); got != i+1 {
			return fmt.Errorf("appended file: record %d is %d", i+1, got)
		}
	}
	if fi, err := f.appended.Stat(); err != nil || fi.Size() != int64(len(b)) {
		return fmt.Errorf("appended file: not %d bytes long, %w", len(b), err)
	}
	return f.checkDeleted()
}

func (f *files) count() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.records
}

// close removes the directory if the workload made it.
func (f *files) close() error {
	if !f.own {
		return nil
	}
	return os.RemoveAll(f.dir)
}
