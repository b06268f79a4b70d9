package pagestore

import (
	"errors"
	"fmt"
	"path/filepath"
	"sort"

	"migrate/criu"
	"migrate/internal/lazymap"
)

// place names one of an image's files.
type place uint8

const (
	nowhere place = iota
	inBase        // base/: pages of the first round, in ascending order
	inSide        // the side file: pages that base/ has no room for, in any order
	inFinal       // the pages file beside the final pagemap, in its order
)

// An image is one task's memory, or one shared memory segment.
type image struct {
	id      criu.PageImage
	pagesID uint32
	base    index     // of the file inBase
	side    scattered // of the file inSide
	final   []listed
	files   [inFinal + 1]pagesFile // by place
}

// listed are pages of the final list, and where their content lies.
type listed struct {
	run
	at   place
	lazy bool
}

func newImage(dir string, id criu.PageImage, pagesID uint32) (*image, error) {
	if id.Type != criu.TaskImage && id.Type != criu.ShmemImage {
		return nil, fmt.Errorf("image type %d: want a task or shared memory", id.Type)
	}
	if id.ID > 1<<31 {
		return nil, fmt.Errorf("image %d: number too large", id.ID)
	}
	im := &image{id: id, pagesID: pagesID, side: scattered{}}
	for p, name := range im.names() {
		im.files[p].path = filepath.Join(dir, name)
	}
	return im, nil
}

// names returns the image's files, relative to the store.
func (im *image) names() map[place]string {
	name := criu.PagesName(im.pagesID)
	return map[place]string{
		inBase: filepath.Join(baseDir, name), inSide: fmt.Sprintf("side-%d", im.pagesID), inFinal: filepath.Join(ImagesDir, name),
	}
}

// early returns where the store has the pages from address on, listed ones
// aside, and how many of at most limit are there beside each other.
func (im *image) early(address, limit uint64) (run, place) {
	r, found := im.base.at(address)
	if r.pages == 0 || r.pages > limit {
		r.pages = limit
	}
	if found {
		return r, inBase
	}
	if r, found = im.side.at(address, r.pages); found {
		return r, inSide
	}
	return r, nowhere
}

// newest returns where the newest content of the page at address lies.
func (im *image) newest(address, limit uint64) (run, place) {
	if l, ok := im.listedAt(address); ok {
		r := l.from(address)
		r.pages = min(r.pages, limit)
		return r, l.at
	}
	return im.early(address, limit)
}

// listedAt finds a page in the final list.
func (im *image) listedAt(address uint64) (listed, bool) {
	i := im.search(address)
	if i == len(im.final) || im.final[i].address > address {
		return listed{}, false
	}
	return im.final[i], true
}

// search returns the first part of the final list that ends behind address.
func (im *image) search(address uint64) int {
	return sort.Search(len(im.final), func(i int) bool { return im.final[i].end() > address })
}

// checkOrder holds the peer to an ascending final list without overlap, whose
// pages do not change any more.
func (im *image) checkOrder(address, pages uint64, final bool) error {
	i := im.search(address)
	if i == len(im.final) || !final && im.final[i].address >= address+pages*pageSize {
		return nil
	}
	return fmt.Errorf("pages at %#x come after those of the final list up to %#x", address, im.final[i].end())
}

// list notes where final pages lie, joining neighbours of one kind.
func (im *image) list(l listed) {
	if n := len(im.final); n > 0 {
		last := &im.final[n-1]
		if last.at == l.at && last.lazy == l.lazy && last.joins(l.run) {
			last.pages += l.pages
			return
		}
	}
	im.final = append(im.final, l)
}

// entries returns the final pagemap. What is lazy has no content there.
func (im *image) entries() (out []criu.PagemapEntry, parent bool) {
	for _, l := range im.final {
		e := criu.PagemapEntry{Address: l.address, Pages: l.pages, Flags: criu.PagePresent}
		switch {
		case l.lazy:
			e.Flags = criu.PageLazy
		case l.at == inBase:
			e.Flags = criu.PageParent
			parent = true
		}
		if n := len(out); n > 0 && out[n-1].Flags == e.Flags && out[n-1].Address+out[n-1].Pages*pageSize == e.Address {
			out[n-1].Pages += e.Pages
			continue
		}
		out = append(out, e)
	}
	return out, parent
}

// finish writes the image's pagemaps and reports whether CRIU needs base/.
func (im *image) finish(dir string) (parent bool, err error) {
	for i := range im.files {
		err = errors.Join(err, im.files[i].seal())
	}
	if err != nil {
		return false, err
	}
	entries, parent := im.entries()
	if err := im.writePagemap(filepath.Join(dir, ImagesDir), entries, inFinal); err != nil || !parent {
		return false, err
	}
	entries = make([]criu.PagemapEntry, len(im.base))
	for i, r := range im.base {
		entries[i] = criu.PagemapEntry{Address: r.address, Pages: r.pages, Flags: criu.PagePresent}
	}
	return true, im.writePagemap(filepath.Join(dir, baseDir), entries, inBase)
}

func (im *image) writePagemap(dir string, entries []criu.PagemapEntry, pages place) error {
	if err := im.files[pages].create(); err != nil { // CRIU opens it even where it is empty
		return err
	}
	return criu.WritePagemap(dir, im.id, criu.Pagemap{PagesID: im.pagesID, Entries: entries})
}

// addLazy adds the image's lazy pages to m.
func (im *image) addLazy(m *lazymap.Map) {
	file := map[place]int{}
	for _, l := range im.final {
		if !l.lazy {
			continue
		}
		if _, ok := file[l.at]; !ok {
			file[l.at] = len(m.Files)
			m.Files = append(m.Files, im.names()[l.at])
		}
		m.Rows = append(m.Rows, lazymap.Row{Image: im.id.ID, Address: l.address, Pages: l.pages, File: file[l.at], Slot: l.slot})
	}
}

func (im *image) close() error {
	var errs []error
	for i := range im.files {
		errs = append(errs, im.files[i].close())
	}
	return errors.Join(errs...)
}
