package pagestore

import (
	"errors"
	"fmt"
	"path/filepath"

	"migrate/criu"
)

// An image is one task's memory, or one shared memory segment.
type image struct {
	id        criu.PageImage
	pagesID   uint32
	base      index // what base/ holds
	side      index // what the side file holds
	final     []criu.PagemapEntry
	baseFile  pagesFile
	sideFile  pagesFile
	finalFile pagesFile
}

func newImage(dir string, id criu.PageImage, pagesID uint32) (*image, error) {
	if id.Type != criu.TaskImage && id.Type != criu.ShmemImage {
		return nil, fmt.Errorf("image type %d: want a task or shared memory", id.Type)
	}
	if id.ID > 1<<31 {
		return nil, fmt.Errorf("image %d: number too large", id.ID)
	}
	name := criu.PagesName(pagesID)
	return &image{
		id: id, pagesID: pagesID,
		baseFile:  pagesFile{path: filepath.Join(dir, baseDir, name)},
		sideFile:  pagesFile{path: filepath.Join(dir, fmt.Sprintf("side-%d", pagesID))},
		finalFile: pagesFile{path: filepath.Join(dir, ImagesDir, name)},
	}, nil
}

// checkOrder holds the peer to an ascending final list without overlap.
func (im *image) checkOrder(address, pages uint64) error {
	if pages == 0 {
		return errors.New("an empty piece")
	}
	if n := len(im.final); n > 0 {
		last := im.final[n-1]
		if end := last.Address + last.Pages*pageSize; address < end {
			return fmt.Errorf("final pages at %#x come after those up to %#x", address, end)
		}
	}
	return nil
}

// list notes where final pages lie, joining neighbours of one kind.
func (im *image) list(address, pages uint64, flags criu.PageFlags) {
	if n := len(im.final); n > 0 {
		last := &im.final[n-1]
		if last.Flags == flags && last.Address+last.Pages*pageSize == address {
			last.Pages += pages
			return
		}
	}
	im.final = append(im.final, criu.PagemapEntry{Address: address, Pages: pages, Flags: flags})
}

// finish writes the image's pagemaps and reports whether base/ is used.
func (im *image) finish(dir string) (bool, error) {
	if err := errors.Join(im.baseFile.seal(), im.finalFile.seal()); err != nil {
		return false, err
	}
	if err := im.writePagemap(filepath.Join(dir, ImagesDir), im.final, &im.finalFile); err != nil {
		return false, err
	}
	if len(im.base) == 0 {
		return false, nil
	}
	entries := make([]criu.PagemapEntry, len(im.base))
	for i, r := range im.base {
		entries[i] = criu.PagemapEntry{Address: r.address, Pages: r.pages, Flags: criu.PagePresent}
	}
	return true, im.writePagemap(filepath.Join(dir, baseDir), entries, &im.baseFile)
}

func (im *image) writePagemap(dir string, entries []criu.PagemapEntry, pages *pagesFile) error {
	if err := pages.create(); err != nil { // CRIU opens it even where it is empty
		return err
	}
	return criu.WritePagemap(dir, im.id, criu.Pagemap{PagesID: im.pagesID, Entries: entries})
}

func (im *image) close() error {
	return errors.Join(im.baseFile.close(), im.sideFile.close(), im.finalFile.close())
}
