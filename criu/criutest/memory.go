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
	Images []criu.PageImage // in the order they were opened
	// CloseErr, if not nil, is what Close returns.
	CloseErr error
	Closed   bool

	entries map[criu.PageImage][]criu.PagemapEntry
	data    map[criu.PageImage][]byte
}

// Open begins an image.
func (m *Memory) Open(img criu.PageImage) (bool, error) {
	if m.entries == nil {
		m.entries = make(map[criu.PageImage][]criu.PagemapEntry)
		m.data = make(map[criu.PageImage][]byte)
	}
	m.Images = append(m.Images, img)
	return false, nil
}

// Extent keeps e and its pages.
func (m *Memory) Extent(e criu.Extent, r io.Reader) error {
	m.entries[e.Image] = append(m.entries[e.Image], criu.PagemapEntry{Address: e.Address, Pages: e.Pages, Flags: e.Flags})
	if e.Flags&criu.PagePresent == 0 {
		return nil
	}
	b := make([]byte, e.Bytes())
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	m.data[e.Image] = append(m.data[e.Image], b...)
	return nil
}

// Close ends the stream.
func (m *Memory) Close() error {
	m.Closed = true
	return m.CloseErr
}

// Bytes is how much memory was received.
func (m *Memory) Bytes() (n int) {
	for _, b := range m.data {
		n += len(b)
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
		if err := os.WriteFile(filepath.Join(dir, criu.PagesName(id)), m.data[img], 0o600); err != nil {
			return fmt.Errorf("%v: %w", img, err)
		}
	}
	return nil
}
