package pagestore

import (
	"io"
	"os"
)

// pagesFile is a file of pages, made when the first page arrives. Zero pages
// are left as holes, which read as zeros and take no memory.
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
		content = make([]byte, pages*pageSize)
	}
	_, err := p.f.WriteAt(content, int64(slot)*pageSize)
	return err
}

func (p *pagesFile) copyFrom(from *pagesFile, slot, pages uint64) error {
	to, err := p.append(pages, nil)
	if err != nil {
		return err
	}
	r := io.NewSectionReader(from.f, int64(slot)*pageSize, int64(pages)*pageSize)
	_, err = io.Copy(io.NewOffsetWriter(p.f, int64(to)*pageSize), r)
	return err
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
