package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// fileHeadLen is the fixed part of a FileHeader frame's payload; the name
// follows.
const fileHeadLen = 12

// FileHeader announces a file.
type FileHeader struct {
	Name string // one path component of A-Z a-z 0-9 . _ -
	Size int64
	Mode uint32 // permission bits, at most 0o7777
}

func (h FileHeader) appendTo(b []byte) []byte {
	b = header{FrameFileHeader, uint32(fileHeadLen + len(h.Name))}.appendTo(b)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Size))
	b = binary.BigEndian.AppendUint32(b, h.Mode)
	return append(b, h.Name...)
}

// parseFileHeader reads a payload whose length was checked.
func parseFileHeader(b []byte) (FileHeader, error) {
	h := FileHeader{
		Name: string(b[fileHeadLen:]), Size: int64(binary.BigEndian.Uint64(b)), Mode: binary.BigEndian.Uint32(b[8:]),
	}
	if err := h.validate(); err != nil {
		return FileHeader{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return h, nil
}

func (h FileHeader) validate() error {
	if h.Name == "" || len(h.Name) > MaxFileName || h.Name == "." || h.Name == ".." || strings.ContainsFunc(h.Name, notInFileName) {
		return fmt.Errorf("file name %.80q: want 1 to %d of A-Z a-z 0-9 . _ -", h.Name, MaxFileName)
	}
	if h.Size < 0 || h.Mode > 0o7777 {
		return fmt.Errorf("file %s: size %d, mode %#o", h.Name, h.Size, h.Mode)
	}
	return nil
}

func notInFileName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-')
}

// FileWriter sends files on one stream. One goroutine at a time.
type FileWriter struct {
	*outgoing
	buf []byte // a frame with room for a chunk
}

// OpenFiles opens a stream for files. It waits while the peer allows no more
// streams.
func (s *Session) OpenFiles(ctx context.Context) (*FileWriter, error) {
	o, err := s.openStream(ctx, FrameFilesStart)
	if err != nil {
		return nil, err
	}
	return &FileWriter{outgoing: o}, nil
}

// Add sends a file of exactly size bytes from r. On an error the stream is
// lost.
func (w *FileWriter) Add(ctx context.Context, name string, size int64, mode uint32, r io.Reader) error {
	h := FileHeader{Name: name, Size: size, Mode: mode}
	if err := h.validate(); err != nil {
		return err
	}
	if err := w.write(ctx, h.appendTo(nil)); err != nil {
		return err
	}
	w.batches++
	if w.buf == nil {
		w.buf = make([]byte, headerLen+MaxFileChunk)
	}
	for left := size; left > 0; {
		n := min(left, MaxFileChunk)
		frame := header{FrameFileData, uint32(n)}.appendTo(w.buf[:0])[:headerLen+int(n)]
		if _, err := io.ReadFull(r, frame[headerLen:]); err != nil {
			return w.fail(fmt.Errorf("file %s: %d bytes before its end: %w", name, left, err))
		}
		if err := w.write(ctx, frame); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// FileReader receives the files of one stream. One goroutine at a time.
type FileReader struct {
	*incoming
	names map[string]struct{} // of the files so far
	left  int64               // bytes that files may still have
	file  *content            // the latest
}

func (*FileReader) start() FrameType { return FrameFilesStart }

// Next returns the next file and its content, which is valid until the next
// call and bound by ctx as well. What was not read of the file before is
// skipped. It returns io.EOF after the end frame if everything arrived as it
// was sent. If ctx ends first the stream is lost.
func (r *FileReader) Next(ctx context.Context) (FileHeader, io.Reader, error) {
	if r.file != nil {
		r.file.ctx = ctx
		if _, err := io.Copy(io.Discard, r.file); err != nil {
			return FileHeader{}, nil, err
		}
	}
	frame, err := r.next(ctx)
	if err != nil {
		return FileHeader{}, nil, err
	}
	h, err := r.admit(frame)
	if err != nil {
		return FileHeader{}, nil, r.fail(err)
	}
	r.batches++
	r.file = &content{ctx: ctx, in: r.incoming, left: h.Size}
	return h, r.file, nil
}

// admit checks a file's header against the stream's limits.
func (r *FileReader) admit(frame []byte) (FileHeader, error) {
	if t := FrameType(frame[0]); t != FrameFileHeader {
		return FileHeader{}, fmt.Errorf("%w: %v between files", ErrProtocol, t)
	}
	h, err := parseFileHeader(frame[headerLen:])
	if err != nil {
		return FileHeader{}, err
	}
	if _, twice := r.names[h.Name]; twice || len(r.names) == MaxFiles {
		return FileHeader{}, fmt.Errorf("%w: file %s twice, or more than %d files", ErrProtocol, h.Name, MaxFiles)
	}
	if h.Size > r.left {
		return FileHeader{}, fmt.Errorf("%w: file %s of %d bytes, %d are left for this stream", ErrProtocol, h.Name, h.Size, r.left)
	}
	r.names[h.Name] = struct{}{}
	r.left -= h.Size
	return h, nil
}

// content reads one file of a stream.
type content struct {
	ctx   context.Context // io.Reader has no other way to take one
	in    *incoming
	left  int64  // bytes not yet in chunk
	chunk []byte // rest of the frame that was read last
}

// Read returns the file's next bytes, and io.EOF after its last.
func (c *content) Read(p []byte) (int, error) {
	if len(c.chunk) == 0 && c.left == 0 {
		return 0, io.EOF
	}
	if len(c.chunk) == 0 {
		if err := c.fetch(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.chunk)
	c.chunk = c.chunk[n:]
	return n, nil
}

func (c *content) fetch() error {
	frame, err := c.in.next(c.ctx)
	if errors.Is(err, io.EOF) {
		return c.in.fail(fmt.Errorf("%w: stream ends inside a file", ErrProtocol))
	}
	if err != nil {
		return err
	}
	chunk := frame[headerLen:]
	if t := FrameType(frame[0]); t != FrameFileData || int64(len(chunk)) > c.left {
		return c.in.fail(fmt.Errorf("%w: %v of %d bytes, %d are left of the file", ErrProtocol, t, len(chunk), c.left))
	}
	c.chunk = chunk
	c.left -= int64(len(chunk))
	return nil
}
