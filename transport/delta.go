package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// A delta is a list of changes to a page, in the manner of QEMU's XBZRLE: each
// is the number of bytes to leave as they are, the number of bytes that follow,
// and these bytes, which take the place of the page's. Numbers are unsigned
// varints (encoding/binary). What is behind the last change stays as it is.

const (
	stride = 128 // compared at once while nothing differs
	gap    = 4   // equal bytes that are worth a new change
)

// AppendDelta appends the delta that makes a page with the content old one with
// the content new. It gives up, and returns dst as it was, when the delta would
// not be smaller than half a page.
func AppendDelta(dst, old, new []byte) (out []byte, ok bool) {
	if len(old) != PageSize || len(new) != PageSize {
		return dst, false
	}
	out = dst
	for at := 0; ; {
		from := nextChange(old, new, at)
		if from == PageSize {
			return out, true
		}
		to := endOfChange(old, new, from)
		out = binary.AppendUvarint(out, uint64(from-at))
		out = binary.AppendUvarint(out, uint64(to-from))
		if len(out)-len(dst)+to-from > MaxDelta {
			return dst, false
		}
		out = append(out, new[from:to]...)
		at = to
	}
}

// nextChange returns the first byte from at on that differs, or PageSize.
func nextChange(old, new []byte, at int) int {
	for ; at%8 != 0; at++ { // a change ends anywhere
		if old[at] != new[at] {
			return at
		}
	}
	for at < PageSize {
		if at%stride == 0 && bytes.Equal(old[at:at+stride], new[at:at+stride]) {
			at += stride
			continue
		}
		if x := diff(old, new, at); x != 0 {
			return at + bits.TrailingZeros64(x)/8
		}
		at += 8
	}
	return PageSize
}

// endOfChange returns where the change at from ends: before gap equal bytes,
// or with the last byte that differs.
func endOfChange(old, new []byte, from int) int {
	at := from + 1
	for at <= PageSize-8 {
		x := diff(old, new, at)
		switch {
		case x<<(64-8*gap) == 0:
			return at
		case noZeroByte(x):
			at += 8
		default:
			at += bits.TrailingZeros64(x)/8 + 1
		}
	}
	for end := PageSize; end > at; end-- {
		if old[end-1] != new[end-1] {
			return end
		}
	}
	return at
}

// diff returns the eight bytes at a place of both pages, XORed: the first is
// the lowest.
func diff(old, new []byte, at int) uint64 {
	return binary.LittleEndian.Uint64(old[at:]) ^ binary.LittleEndian.Uint64(new[at:])
}

// noZeroByte reports whether each byte of x has a bit.
func noZeroByte(x uint64) bool {
	const low, high = 0x0101010101010101, 0x8080808080808080
	return (x-low)&^x&high == 0
}

// ApplyDelta makes the change that AppendDelta described to page. It takes
// nothing in delta for granted. After an error the page's content is undefined.
func ApplyDelta(page, delta []byte) error {
	for rest := page; len(delta) > 0; {
		skip, n, ok := changeHead(&delta)
		if !ok || n == 0 || skip > uint64(len(rest)) || n > uint64(len(rest))-skip || n > uint64(len(delta)) {
			return fmt.Errorf("%w: delta for a page of %d bytes leaves out %d and changes %d, with %d of them left of the page and %d of the delta",
				ErrProtocol, len(page), skip, n, len(rest), len(delta))
		}
		copy(rest[skip:], delta[:n])
		rest, delta = rest[skip+n:], delta[n:]
	}
	return nil
}

// changeHead takes the two numbers of a change off the front of delta.
func changeHead(delta *[]byte) (skip, n uint64, ok bool) {
	skip, a := binary.Uvarint(*delta)
	if a <= 0 {
		return 0, 0, false
	}
	n, b := binary.Uvarint((*delta)[a:])
	if b <= 0 {
		return 0, 0, false
	}
	*delta = (*delta)[a+b:]
	return skip, n, true
}
