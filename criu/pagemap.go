package criu

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxPagemap bounds the pagemap images that are read: about eight million
// entries.
const maxPagemap = 128 << 20

// maxEntry bounds one message of a pagemap image.
const maxEntry = 64

// The fields of pagemap_head and pagemap_entry (images/pagemap.proto). CRIU
// 4.2 moved the count to a wider field and kept the old one, which is required.
const (
	fieldPagesID     = 1
	fieldAddress     = 1
	fieldCompatPages = 2
	fieldFlags       = 4
	fieldPages       = 5
)

// PagemapEntry is a run of pages in a pagemap image.
type PagemapEntry struct {
	Address uint64
	Pages   uint64
	Flags   PageFlags
}

// Pagemap is the content of a pagemap image: which pages there are, in rising
// order of address. The content of those with PagePresent follows one another
// in the file [PagesName] of PagesID.
type Pagemap struct {
	PagesID uint32
	Entries []PagemapEntry
}

// PagemapName returns the file name of an image's pagemap.
func (p PageImage) PagemapName() string { return p.String() + ".img" }

// PagesName returns the name of the file that holds the pages themselves.
func PagesName(id uint32) string { return fmt.Sprintf("pages-%d.img", id) }

// WritePagemap writes img's pagemap into dir, in a form that every CRIU reads.
func WritePagemap(dir string, img PageImage, p Pagemap) error {
	b, err := p.AppendTo(nil)
	if err != nil {
		return fmt.Errorf("%v: %w", img, err)
	}
	return os.WriteFile(filepath.Join(dir, img.PagemapName()), b, 0o600)
}

// ReadPagemap reads img's pagemap from dir.
func ReadPagemap(dir string, img PageImage) (Pagemap, error) {
	b, err := readBounded(filepath.Join(dir, img.PagemapName()), maxPagemap)
	if err != nil {
		return Pagemap{}, fmt.Errorf("%v: %w", img, err)
	}
	p, err := ParsePagemap(b)
	if err != nil {
		return Pagemap{}, fmt.Errorf("%v: %w", img, err)
	}
	return p, nil
}

// AppendTo encodes the image. Each count is written in both of its fields.
func (p Pagemap) AppendTo(b []byte) ([]byte, error) {
	b = appendMagic(b, pagemapMagic)
	var msg []byte
	msg = appendVarint(msg, fieldPagesID, uint64(p.PagesID))
	b = appendMessage(b, msg)
	for _, e := range p.Entries {
		if err := e.validate(); err != nil {
			return nil, err
		}
		b = appendMessage(b, e.appendTo(msg[:0]))
	}
	return b, nil
}

func (e PagemapEntry) appendTo(b []byte) []byte {
	b = appendVarint(b, fieldAddress, e.Address)
	b = appendVarint(b, fieldCompatPages, e.Pages)
	b = appendVarint(b, fieldFlags, uint64(e.Flags))
	return appendVarint(b, fieldPages, e.Pages)
}

// validate checks e. The old field has 32 bits, so a longer run cannot be
// written for every CRIU; it would be 16 TiB.
func (e PagemapEntry) validate() error {
	if e.Pages > math.MaxUint32 {
		return fmt.Errorf("entry at %#x: %d pages are too many", e.Address, e.Pages)
	}
	return Extent{Address: e.Address, Pages: e.Pages, Flags: e.Flags}.validate()
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// ParsePagemap decodes an image of any CRIU version.
func ParsePagemap(b []byte) (Pagemap, error) {
	b, err := openImage(b, pagemapMagic)
	if err != nil {
		return Pagemap{}, err
	}
	head, b, err := cutFields(b)
	if err != nil {
		return Pagemap{}, err
	}
	if head[fieldPagesID] > math.MaxUint32 {
		return Pagemap{}, fmt.Errorf("pages id %d is out of range", head[fieldPagesID])
	}
	p := Pagemap{PagesID: uint32(head[fieldPagesID])}
	for len(b) > 0 {
		var f fields
		if f, b, err = cutFields(b); err != nil {
			return Pagemap{}, err
		}
		e, err := f.entry()
		if err != nil {
			return Pagemap{}, err
		}
		p.Entries = append(p.Entries, e)
	}
	return p, nil
}

// fields are the values of a message's numeric fields, by number.
type fields [fieldPages + 1]uint64

func (f fields) entry() (PagemapEntry, error) {
	if f[fieldFlags] > math.MaxUint8 {
		return PagemapEntry{}, fmt.Errorf("entry at %#x: unknown flags %#x", f[fieldAddress], f[fieldFlags])
	}
	pages := f[fieldPages]
	if pages == 0 {
		pages = f[fieldCompatPages]
	}
	e := PagemapEntry{Address: f[fieldAddress], Pages: pages, Flags: PageFlags(f[fieldFlags])}
	return e, e.validate()
}

// cutFields takes one message off b. Unknown numeric fields are passed over.
func cutFields(b []byte) (f fields, rest []byte, err error) {
	msg, rest, err := cutMessage(b)
	if err != nil {
		return f, nil, err
	}
	if len(msg) > maxEntry {
		return f, nil, fmt.Errorf("entry of %d bytes", len(msg))
	}
	for len(msg) > 0 {
		num, kind, n := protowire.ConsumeTag(msg)
		if n < 0 || kind != protowire.VarintType {
			return f, nil, errors.New("entry is not a list of numbers")
		}
		v, m := protowire.ConsumeVarint(msg[n:])
		if m < 0 {
			return f, nil, errShort
		}
		if int(num) < len(f) {
			f[num] = v
		}
		msg = msg[n+m:]
	}
	return f, rest, nil
}
