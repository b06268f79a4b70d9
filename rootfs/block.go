package rootfs

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// blockSize is the unit in which a file's content is compared and sent again.
const blockSize = 128 << 10

// sum identifies the content of a block and where in it the holes are.
type sum = xxh3.Uint128

// blockSum is a block of a file that holds data.
type blockSum struct {
	index int64 // its offset in blocks
	sum   sum
}

// run is a stretch of data between holes, in bytes from the file's start.
type run struct{ off, end int64 }

// block is a block of a file that holds data.
type block struct {
	blockSum
	runs []run
	data []byte // of all runs, one after the other
}

// whole reports whether the block has no hole, in a file of that size.
func (b *block) whole(size int64) bool {
	off := b.index * blockSize
	return len(b.runs) == 1 && b.runs[0] == run{off, min(off+blockSize, size)}
}

// sumOf hashes a block. The runs are part of it unless there is no hole.
func sumOf(b *block, size int64) sum {
	if b.whole(size) {
		return xxh3.Hash128(b.data)
	}
	h := xxh3.New()
	var where []byte
	for _, r := range b.runs {
		where = binary.BigEndian.AppendUint64(where, uint64(r.off-b.index*blockSize))
		where = binary.BigEndian.AppendUint64(where, uint64(r.end-r.off))
	}
	_, _ = h.Write(where) // never fails
	_, _ = h.Write(b.data)
	return h.Sum128()
}

// blocks reads the blocks of a file that hold data.
type blocks struct {
	fd     int
	size   int64
	next   int64 // offset up to which the file was read
	extent run   // of data, at or after next
	short  bool  // the file was shorter than its size said
	b      block
}

func newBlocks(fd int, size int64) *blocks {
	return &blocks{fd: fd, size: size, b: block{data: make([]byte, 0, min(size, blockSize))}}
}

// read returns the next block, valid until the next call, or io.EOF.
func (r *blocks) read() (*block, error) {
	if err := r.seek(); err != nil {
		return nil, err
	}
	if r.extent.off >= r.size {
		return nil, io.EOF
	}
	b := &r.b
	b.index = max(r.next, r.extent.off) / blockSize
	b.runs, b.data = b.runs[:0], b.data[:0]
	end := min((b.index+1)*blockSize, r.size)
	r.next = max(r.next, b.index*blockSize)
	for r.next < end {
		if err := r.seek(); err != nil {
			return nil, err
		}
		here := run{max(r.next, r.extent.off), min(r.extent.end, end)}
		r.next = end
		if here.off < here.end {
			r.next = here.end
			if err := r.fill(here); err != nil {
				return nil, err
			}
		}
	}
	b.sum = sumOf(b, r.size)
	return b, nil
}

// seek moves the extent to the one that holds next, or follows it.
func (r *blocks) seek() error {
	if r.next < r.extent.end {
		return nil
	}
	off, err := unix.Seek(r.fd, r.next, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && off >= r.size { // nothing but a hole, or the end
		r.extent = run{r.size, r.size + 1}
		return nil
	}
	if err != nil {
		return err
	}
	end, err := unix.Seek(r.fd, off, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // cut off meanwhile
		r.short = true
		end, err = off+1, nil
	}
	r.extent = run{off, min(end, r.size)}
	return err
}

// fill reads a run of the block.
func (r *blocks) fill(here run) error {
	old := len(r.b.data)
	r.b.data = slices.Grow(r.b.data, int(here.end-here.off))[:old+int(here.end-here.off)]
	for got := old; got < len(r.b.data); {
		n, err := unix.Pread(r.fd, r.b.data[got:], here.off+int64(got-old))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 { // cut off meanwhile, so that it reads as zeros
			r.short = true
			clear(r.b.data[got:])
			break
		}
		got += n
	}
	r.b.runs = append(r.b.runs, here)
	return nil
}
