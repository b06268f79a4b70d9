package criu

import (
	"encoding/binary"
	"fmt"
)

// PageSize is the size of a page in CRIU's streams and images.
const PageSize = 4096

// ImageType says what a stream of pages belongs to.
type ImageType uint8

// The image types (page-xfer.c).
const (
	TaskImage  ImageType = 1 // private memory of one task; the ID is its PID in its own namespace
	ShmemImage ImageType = 2 // shared memory; the ID is CRIU's number of the segment
)

// PageImage names one pagemap image.
type PageImage struct {
	Type ImageType
	ID   uint64
}

// String returns the image's file name without ".img".
func (p PageImage) String() string {
	if p.Type == ShmemImage {
		return fmt.Sprintf("pagemap-shmem-%d", p.ID)
	}
	return fmt.Sprintf("pagemap-%d", p.ID)
}

// PageFlags say where the pages of an extent are.
type PageFlags uint8

// The page flags (include/pagemap.h).
const (
	PageParent  PageFlags = 1 // in the parent image
	PageLazy    PageFlags = 2 // may be restored after the tree runs
	PagePresent PageFlags = 4 // here
)

// Extent is a run of pages of one image.
type Extent struct {
	Image   PageImage
	Address uint64 // of the first page; an offset in the segment for shared memory
	Pages   uint64
	Flags   PageFlags
}

// maxAddress is the end of any address space that CRIU dumps.
const maxAddress = 1 << 63

// Bytes returns the extent's length.
func (e Extent) Bytes() uint64 { return e.Pages * PageSize }

func (e Extent) validate() error {
	if e.Pages == 0 || e.Pages > maxAddress/PageSize || e.Address > maxAddress-e.Bytes() || e.Address%PageSize != 0 {
		return fmt.Errorf("extent of %d pages at %#x: out of range", e.Pages, e.Address)
	}
	if e.Flags&^(PageParent|PageLazy|PagePresent) != 0 {
		return fmt.Errorf("extent at %#x: unknown flags %#x", e.Address, e.Flags)
	}
	return nil
}

// command is the low half of a message's first word.
type command uint16

const (
	cmdOpen       command = 4 // OPEN2
	cmdParent     command = 5 // PARENT, of a pre-dump, before OPEN2
	cmdAdd        command = 6 // ADD_F
	cmdClose      command = 0x1023
	cmdForceClose command = 0x1024
)

// message is struct page_server_iov (page-xfer.c), in host byte order:
//
//	CRIU 4.2 and later (32 bytes): u32 cmd, u32 padding, u64 nr_pages, u64 vaddr, u64 dst_id
//	before             (24 bytes): u32 cmd, u32 nr_pages, u64 vaddr, u64 dst_id
//
// cmd holds the command in its low half, the page flags in its high half;
// dst_id is id<<8 | type.
type message struct {
	cmd     command
	flags   uint16
	pages   uint64
	address uint64
	image   PageImage
}

func messageSize(v Version) int {
	if v >= widePages {
		return 32
	}
	return 24
}

// maxMessageSize is the larger of the two layouts.
const maxMessageSize = 32

// parseMessage decodes b, which has the length of v's layout.
func parseMessage(b []byte, v Version) (message, error) {
	if len(b) != messageSize(v) {
		return message{}, fmt.Errorf("page message: %d bytes, want %d", len(b), messageSize(v))
	}
	order := binary.NativeEndian
	word := order.Uint32(b)
	m := message{cmd: command(word), flags: uint16(word >> 16), pages: uint64(order.Uint32(b[4:]))}
	if v >= widePages {
		m.pages = order.Uint64(b[8:])
	}
	rest := b[len(b)-16:]
	m.address = order.Uint64(rest)
	id := order.Uint64(rest[8:])
	m.image = PageImage{Type: ImageType(id), ID: id >> 8}
	return m, nil
}

// appendTo encodes m in v's layout.
func (m message) appendTo(b []byte, v Version) []byte {
	order := binary.NativeEndian
	b = order.AppendUint32(b, uint32(m.cmd)|uint32(m.flags)<<16)
	if v >= widePages {
		b = order.AppendUint32(b, 0)
		b = order.AppendUint64(b, m.pages)
	} else {
		b = order.AppendUint32(b, uint32(m.pages))
	}
	b = order.AppendUint64(b, m.address)
	return order.AppendUint64(b, m.image.ID<<8|uint64(m.image.Type))
}

// extent returns what an ADD_F message describes.
func (m message) extent() (Extent, error) {
	if m.flags > 0xff {
		return Extent{}, fmt.Errorf("extent at %#x: unknown flags %#x", m.address, m.flags)
	}
	e := Extent{Image: m.image, Address: m.address, Pages: m.pages, Flags: PageFlags(m.flags)}
	return e, e.validate()
}

func (p PageImage) validate() error {
	if p.Type != TaskImage && p.Type != ShmemImage {
		return fmt.Errorf("page image %d: unknown type %d", p.ID, p.Type)
	}
	return nil
}
