package transport

import (
	"fmt"
	"io"
)

// frameBuffer collects one frame at a time. A read that fails midway can be
// taken up again: what came so far is kept.
type frameBuffer struct {
	buf  []byte // what there is of the current frame
	done bool   // buf was returned to the caller; start anew
}

// next returns the next frame, header included. It is valid until the
// following call. io.EOF means the end between two frames.
func (f *frameBuffer) next(r io.Reader) ([]byte, error) {
	if f.done {
		f.buf, f.done = f.buf[:0], false
	}
	if err := f.fill(r, headerLen); err != nil {
		return nil, err
	}
	h, err := parseHeader(f.buf)
	if err != nil {
		return nil, err
	}
	if err := f.fill(r, headerLen+int(h.Length)); err != nil {
		return nil, err
	}
	f.done = true
	return f.buf, nil
}

// fill reads until there are n bytes.
func (f *frameBuffer) fill(r io.Reader, n int) error {
	for len(f.buf) < n {
		f.grow(n)
		m, err := r.Read(f.buf[len(f.buf):min(n, cap(f.buf))])
		f.buf = f.buf[:len(f.buf)+m]
		if err == io.EOF && len(f.buf) < n && len(f.buf) > 0 {
			return fmt.Errorf("%w: stream ends inside a frame", ErrProtocol)
		}
		if err != nil && len(f.buf) < n {
			return err
		}
	}
	return nil
}

// grow makes room towards n bytes, but never more than doubles what has really
// come: a length that the peer only claims costs no memory.
func (f *frameBuffer) grow(n int) {
	if len(f.buf) < cap(f.buf) {
		return
	}
	size := min(n, max(2*len(f.buf), 4<<10))
	f.buf = append(make([]byte, 0, size), f.buf...)
}
