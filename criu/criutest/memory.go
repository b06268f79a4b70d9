package criutest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"migrate/criu"
)

// Memory is a page sink that keeps everything in memory.
type Memory struct {
	// Parent is what earlier pre-dumps gave, or nil. Pages that did not change are
	// taken from it.
	Parent *Memory
	Images []criu.PageImage // in the order they were opened
	// CloseErr, if not nil, is what Close returns.
	CloseErr error
	Closed   bool
	// Kept counts the pages that were taken from Parent.
	Kept uint64

	entries map[criu.PageImage][]criu.PagemapEntry
	data    map[criu.PageImage]map[uint64][]byte
}

// Open begins an image.
func (m *Memory) Open(img criu.PageImage) (bool, error) {
	if m.entries == nil {
		m.entries = make(map[criu.PageImage][]criu.PagemapEntry)
		m.data = make(map[criu.PageImage]map[uint64][]byte)
	}
	m.Images = append(m.Images, img)
	m.data[img] = make(map[uint64][]byte)
	return m.Parent != nil && m.Parent.data[img] != nil && img.Type == criu.TaskImage, nil
}

// Extent keeps e and its pages.
func (m *Memory) Extent(e criu.Extent, r io.Reader) error {
	kept := e.Flags&criu.PagePresent == 0
	entry := criu.PagemapEntry{Address: e.Address, Pages: e.Pages, Flags: e.Flags&^criu.PageParent | criu.PagePresent}
	m.entries[e.Image] = append(m.entries[e.Image], entry)
	if kept {
		m.Kept += e.Pages
		return m.keep(e)
	}
	b := make([]byte, e.Bytes())
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	for i := range e.Pages {
		m.data[e.Image][e.Address+i*criu.PageSize] = b[i*criu.PageSize : (i+1)*criu.PageSize]
	}
	return nil
}

// keep takes the pages of e from the parent.
func (m *Memory) keep(e criu.Extent) error {
	for i := range e.Pages {
		a := e.Address + i*criu.PageSize
		page, ok := m.Page(e.Image, a)
		if !ok {
			return fmt.Errorf("%v: page %#x is not in the parent", e.Image, a)
		}
		m.data[e.Image][a] = page
	}
	return nil
}

// Page returns the newest content of a page.
func (m *Memory) Page(img criu.PageImage, address uint64) (page []byte, ok bool) {
	for ; m != nil && !ok; m = m.Parent {
		page, ok = m.data[img][address]
	}
	return page, ok
}

// Close ends the stream.
func (m *Memory) Close() error {
	m.Closed = true
	return m.CloseErr
}

// Bytes is how much memory there is.
func (m *Memory) Bytes() (n int) {
	for _, pages := range m.data {
		n += len(pages) * criu.PageSize
	}
	return n
}

// WriteImages writes the pagemap and pages images that a restore needs.
func (m *Memory) WriteImages(dir string) error {
	for i, img := range m.Images {
		id := uint32(i + 1)
		if err := criu.WritePagemap(dir, img, criu.Pagemap{PagesID: id, Entries: m.entries[img]}); err != nil {
			return err
		}
		if err := m.writePages(filepath.Join(dir, criu.PagesName(id)), img); err != nil {
			return fmt.Errorf("%v: %w", img, err)
		}
	}
	return nil
}

func (m *Memory) writePages(path string, img criu.PageImage) error {
	var b []byte
	for _, e := range m.entries[img] {
		for i := range e.Pages {
			b = append(b, m.data[img][e.Address+i*criu.PageSize]...)
		}
	}
	return os.WriteFile(path, b, 0o600)
}
