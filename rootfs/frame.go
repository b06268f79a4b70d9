package rootfs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/xxh3"
)

// Version of the stream. A reader refuses any other.
const Version = 1

// magic starts every stream.
const magic = "MGFS"

// frameType names a frame. Values go over the wire: never reuse or renumber
// one.
type frameType uint8

const (
	frameStart   frameType = 0x01 // what follows: a pass, or an offer
	frameRemove  frameType = 0x02 // take a name away
	frameTake    frameType = 0x03 // put a regular file aside, for a later Entry
	frameEntry   frameType = 0x04 // make, or change, what a name stands for
	frameData    frameType = 0x05 // content of the file of the last Entry
	frameReuse   frameType = 0x06 // content that the target's old tree has
	frameHole    frameType = 0x07 // content that is a hole now
	frameEnd     frameType = 0x08 // counts and the digest of all before
	frameOffered frameType = 0x09 // blocks of one file of the target's old tree
)

// limits are the largest payloads, in bytes. A longer frame is refused before
// anything is allocated for it.
var limits = map[frameType]uint32{
	frameStart: startLen, frameRemove: MaxPath, frameTake: 4 + MaxPath,
	frameEntry: entryLen + 2*MaxPath + maxXattrs + 5*maxXattrCount,
	frameData:  8 + blockSize, frameReuse: reuseLen, frameHole: 16, frameEnd: endLen,
	frameOffered: 2 + MaxPath + offeredLen*maxOffered,
}

const (
	headerLen   = 1 + 1 + 4 // type, flags, length
	digestLen   = 8         // after the payload
	frameBuffer = 256 << 10
)

// frameWriter writes frames. It buffers them until flush.
type frameWriter struct {
	w     *bufio.Writer
	whole *xxh3.Hasher // of the frames' digests
	buf   []byte
	err   error // the first; the stream is lost
}

func newFrameWriter(w io.Writer) *frameWriter {
	return &frameWriter{w: bufio.NewWriterSize(w, frameBuffer), whole: xxh3.New()}
}

// begin starts a frame, and returns the buffer to append its payload to.
func (w *frameWriter) begin(t frameType) []byte {
	return append(w.buf[:0], byte(t), 0, 0, 0, 0, 0)
}

// end writes the frame that begin returned the buffer of.
func (w *frameWriter) end(b []byte) error {
	w.buf = b
	if w.err != nil {
		return w.err
	}
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)-headerLen))
	b = binary.BigEndian.AppendUint64(b, xxh3.Hash(b))
	w.buf = b
	_, _ = w.whole.Write(b[len(b)-digestLen:]) // never fails
	if _, err := w.w.Write(b); err != nil {
		w.err = fmt.Errorf("sending files: %w", err)
	}
	return w.err
}

// frameReader reads frames, and not a byte more.
type frameReader struct {
	r     io.Reader
	whole *xxh3.Hasher
	head  [headerLen]byte
	buf   []byte
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: r, whole: xxh3.New()}
}

// next returns the next frame. The payload is valid until the call after. The end
// of the reader is an error: a stream ends with an End frame.
func (r *frameReader) next() (frameType, []byte, error) {
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return 0, nil, r.broken(err)
	}
	t, n := frameType(r.head[0]), binary.BigEndian.Uint32(r.head[2:])
	limit, ok := limits[t]
	switch {
	case !ok:
		return 0, nil, fmt.Errorf("%w: frame of type %#02x", ErrRefused, uint8(t))
	case r.head[1] != 0:
		return 0, nil, fmt.Errorf("%w: frame with flags %#02x", ErrRefused, r.head[1])
	case n > limit:
		return 0, nil, fmt.Errorf("%w: frame of %d bytes, at most %d are allowed for type %#02x", ErrRefused, n, limit, uint8(t))
	}
	if need := headerLen + int(n) + digestLen; cap(r.buf) < need {
		r.buf = make([]byte, need)
	}
	b := append(r.buf[:0], r.head[:]...)[:headerLen+int(n)+digestLen]
	if _, err := io.ReadFull(r.r, b[headerLen:]); err != nil {
		return 0, nil, r.broken(err)
	}
	frame, digest := b[:headerLen+int(n)], b[headerLen+int(n):]
	if xxh3.Hash(frame) != binary.BigEndian.Uint64(digest) {
		return 0, nil, fmt.Errorf("%w: frame damaged on the way", ErrRefused)
	}
	if t != frameEnd {
		_, _ = r.whole.Write(digest) // never fails
	}
	return t, frame[headerLen:], nil
}

func (r *frameReader) broken(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("receiving files: %w", err)
}
