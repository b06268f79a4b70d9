package pagestore

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pagesFile is a file of pages, made when the first page arrives. Zero pages
// are left as holes, which read as zeros and take no memory.
//
// It is written to, not mapped: where memory is short a write fails, and a
// mapping would kill this process. For pages that are new both take as long.
type pagesFile struct {
	path  string
	f     *os.File
	slots uint64
}

func (p *pagesFile) create() error {
	if p.f != nil {
		return nil
	}
	f, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	p.f = f
	return nil
}

// append adds pages at the end; content nil means zero pages.
func (p *pagesFile) append(pages uint64, content []byte) (slot uint64, err error) {
	slot = p.slots
	p.slots += pages
	if err := p.create(); err != nil {
		return 0, err
	}
	if content == nil {
		return slot, nil
	}
	_, err = p.f.WriteAt(content, int64(slot)*pageSize)
	return slot, err
}

// put overwrites pages; content nil means zero pages.
func (p *pagesFile) put(slot, pages uint64, content []byte) error {
	if content == nil {
		return p.punch(slot, pages)
	}
	_, err := p.f.WriteAt(content, int64(slot)*pageSize)
	return err
}

// punch makes pages zero and gives their memory back. A file system without
// holes gets zeros instead.
func (p *pagesFile) punch(slot, pages uint64) error {
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := unix.Fallocate(int(p.f.Fd()), mode, int64(slot)*pageSize, int64(pages)*pageSize)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return os.NewSyscallError("fallocate", err)
	}
	zeros := io.NewSectionReader(zeroes{}, 0, int64(pages)*pageSize)
	_, err = io.Copy(io.NewOffsetWriter(p.f, int64(slot)*pageSize), zeros)
	return err
}

type zeroes struct{}

// ReadAt reads zeros.
func (zeroes) ReadAt(b []byte, _ int64) (int, error) {
	clear(b)
	return len(b), nil
}

// read fills buf with the pages from slot on. Zero pages at the end of the
// file may not exist yet.
func (p *pagesFile) read(slot uint64, buf []byte) error {
	n, err := p.f.ReadAt(buf, int64(slot)*pageSize)
	if errors.Is(err, io.EOF) {
		clear(buf[n:])
		return nil
	}
	return err
}

func (p *pagesFile) copyFrom(from *pagesFile, slot, pages uint64) (to uint64, err error) {
	if to, err = p.append(pages, nil); err != nil {
		return 0, err
	}
	r := io.NewSectionReader(from.f, int64(slot)*pageSize, int64(pages)*pageSize)
	_, err = io.Copy(io.NewOffsetWriter(p.f, int64(to)*pageSize), r)
	return to, err
}

// empty drops all pages.
func (p *pagesFile) empty() error {
	p.slots = 0
	return p.seal()
}

// seal gives the file its full length, so that zero pages at its end exist.
func (p *pagesFile) seal() error {
	if p.f == nil {
		return nil
	}
	return p.f.Truncate(int64(p.slots) * pageSize)
}

func (p *pagesFile) close() error {
	if p.f == nil {
		return nil
	}
	return p.f.Close()
}
