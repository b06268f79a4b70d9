// Package lazymap is the file that tells who fills a lazily restored tree where
// each of its pages lies. The store writes it once, before the restore; the
// workload's supervisor reads it.
//
// Layout, little-endian: magic, version, number of files, number of rows; each
// file's name behind its length; the rows; an XXH64 of everything before it.
// Rows have a fixed size and ascend, so that a page is found by binary search.
package lazymap

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sort"
)

// PageSize is the unit of slots and of Row.Pages.
const PageSize = 4096

// A Map says which pages are restored lazily, and where their content is.
type Map struct {
	Files []string // of pages, relative to the map's own directory
	Rows  []Row    // ascending by image and address, without overlap
}

// A Row is a range of pages that lie beside each other in one file.
type Row struct {
	Image   uint64 // CRIU's number of the task: its PID in its own PID namespace
	Address uint64 // of the first page, a multiple of PageSize
	Pages   uint64 // at least 1
	File    int    // index in Map.Files
	Slot    uint64 // of the first page in the file, in pages
}

func (r Row) end() uint64 { return r.Address + r.Pages*PageSize }

// Find returns where the page of an image at addr lies, and how many pages from
// there on lie behind it, the page itself included. addr need not be aligned.
func (m Map) Find(image, addr uint64) (file int, slot, pages uint64, ok bool) {
	i := sort.Search(len(m.Rows), func(i int) bool {
		r := m.Rows[i]
		return r.Image > image || r.Image == image && r.end() > addr
	})
	if i == len(m.Rows) || m.Rows[i].Image != image || addr < m.Rows[i].Address {
		return 0, 0, 0, false
	}
	r := m.Rows[i]
	n := (addr - r.Address) / PageSize
	return r.File, r.Slot + n, r.Pages - n, true
}

// Pages returns the number of pages of all rows.
func (m Map) Pages() uint64 {
	var n uint64
	for _, r := range m.Rows {
		n += r.Pages
	}
	return n
}

// Bounds of what is written and read. Tasks are numbered below 2^22 (proc(5),
// pid_max), each with at most three files.
const (
	maxFiles = 1 << 18
	maxName  = 255
	maxBytes = 1 << 30
	maxSlot  = math.MaxInt64 / PageSize
)

// validate holds writers and readers to the same rules.
func (m Map) validate() error {
	if len(m.Files) > maxFiles {
		return fmt.Errorf("%d files: more than %d", len(m.Files), maxFiles)
	}
	for _, name := range m.Files {
		if !filepath.IsLocal(name) || len(name) > maxName {
			return fmt.Errorf("file name %.80q", name)
		}
	}
	for i, r := range m.Rows {
		if err := r.validate(len(m.Files)); err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
		if i > 0 && !m.Rows[i-1].before(r) {
			return fmt.Errorf("row %d: image %d, %#x: out of order", i, r.Image, r.Address)
		}
	}
	return nil
}

func (r Row) before(next Row) bool {
	return r.Image < next.Image || r.Image == next.Image && r.end() <= next.Address
}

func (r Row) validate(files int) error {
	switch {
	case r.Image > math.MaxUint32:
		return fmt.Errorf("image %d", r.Image)
	case r.Address%PageSize != 0, r.Pages == 0, r.Pages > maxSlot, r.Address > math.MaxUint64-r.Pages*PageSize:
		return fmt.Errorf("%d pages at %#x", r.Pages, r.Address)
	case r.File < 0, r.File >= files:
		return fmt.Errorf("file %d of %d", r.File, files)
	case r.Slot > maxSlot-r.Pages:
		return fmt.Errorf("slot %d", r.Slot)
	}
	return nil
}

// ErrDamaged means that a file is not, or no longer, a whole map.
var ErrDamaged = errors.New("the map of lazily restored pages is damaged")
