package fill

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"migrate/internal/lazymap"
)

// store is the content of the missing pages. Its files stay open, so that
// whoever removes them takes nothing away.
type store struct {
	files  []*os.File
	images map[uint64][]piece // by CRIU's number of the task
	total  uint64             // bytes
	shared bool               // some content stands for several pages
	deaf   bool               // the file system does not give back ranges
	log    *slog.Logger
}

// openStore opens what the map at path tells of.
func openStore(path string, log *slog.Logger) (*store, error) {
	m, err := lazymap.Read(path)
	if err != nil {
		return nil, err
	}
	s := &store{images: map[uint64][]piece{}, log: log}
	for _, name := range m.Files {
		f, err := os.OpenFile(filepath.Join(filepath.Dir(path), name), os.O_RDWR, 0)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.files = append(s.files, f)
	}
	for _, r := range m.Rows {
		p := piece{addr: r.Address, size: r.Pages * pageSize, file: r.File, offset: r.Slot * pageSize}
		s.images[r.Image] = append(s.images[r.Image], p)
		s.total += p.size
	}
	if err := s.check(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// check finds out before the workload depends on it whether content is lacking,
// and whether some is used more than once.
func (s *store) check() error {
	var all []piece
	for _, pieces := range s.images {
		all = append(all, pieces...)
	}
	slices.SortFunc(all, byContent)
	for i, p := range all {
		s.shared = s.shared || i > 0 && all[i-1].file == p.file && all[i-1].offset+all[i-1].size > p.offset
	}
	for i, f := range s.files {
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.file == i && p.offset+p.size > uint64(fi.Size()) {
				return fmt.Errorf("%s has %d bytes, and pages up to %d are listed", f.Name(), fi.Size(), p.offset+p.size)
			}
		}
	}
	return nil
}

// read fills buf with content from a piece's beginning on.
func (s *store) read(p piece, buf []byte) error {
	n, err := s.files[p.file].ReadAt(buf, int64(p.offset))
	if errors.Is(err, io.EOF) && n == len(buf) {
		err = nil
	}
	return err
}

// drop gives back the memory behind content that nobody needs any more. Where
// the file system cannot, it stays until the store is removed.
func (s *store) drop(p piece) {
	if s.deaf || p.size == 0 {
		return
	}
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(s.files[p.file].Fd()), mode, int64(p.offset), int64(p.size)); err != nil {
		s.deaf = true
		s.log.Warn("what was filled in stays in the store", "cause", err)
	}
}

func (s *store) dropAll() {
	for _, pieces := range s.images {
		for _, p := range pieces {
			s.drop(p)
		}
	}
}

func (s *store) close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
