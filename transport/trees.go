package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"migrate"
)

// MaxTrees is the most file trees of one migration.
const MaxTrees = 1024

// Look asks, ahead of an Offer, which trees the target has or even sees on the
// same storage. Since version 2.
type Look struct {
	Trees []Place `json:"trees"`
}

// Place is where a tree is on both hosts, with a file that the source has
// planted there.
type Place struct {
	Path  string `json:"path"`
	Probe Probe  `json:"probe,omitzero"` // none could be planted if it has no name
}

// Probe is what package rootfs calls so.
type Probe struct {
	Name   string `json:"name"`
	Token  string `json:"token"`
	Inside bool   `json:"inside"`
}

// Looked answers Look, in its order.
type Looked struct {
	Trees []Seen `json:"trees"`
}

// Seen is what a target has at a place.
type Seen struct {
	There  bool `json:"there"`  // something
	Shared bool `json:"shared"` // the source's very own
}

// Tree is one that an Offer names: to be compared, or to be sent.
type Tree struct {
	Path    string           `json:"path"`
	Role    migrate.TreeRole `json:"role"`
	Kind    uint8            `json:"kind"`             // as package rootfs numbers them
	File    bool             `json:"file,omitempty"`   // a regular file
	Digest  string           `json:"digest,omitempty"` // of one that must be equal; "" is one that is sent
	Entries int64            `json:"entries,omitempty"`
	Bytes   int64            `json:"bytes,omitempty"`
	Devices []Device         `json:"devices,omitempty"` // nodes that are in it
}

// Device is a device number.
type Device struct {
	Block bool   `json:"block,omitempty"`
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

// TreeAt is how far a target has come with a tree.
type TreeAt struct {
	Pass  uint32 `json:"pass"`
	Steps uint64 `json:"steps"`
}

// PassAck says that a pass over a tree is applied. Since version 2.
type PassAck struct {
	Tree int `json:"tree"` // its place among those of the Offer that are sent
	TreeAt
}

// TreeEnd is how a tree must be when its last pass is applied.
type TreeEnd struct {
	TreeAt
	Digest string `json:"digest,omitempty"` // "" if it is not to be compared
}

// FrameType returns [FrameLook].
func (Look) FrameType() FrameType { return FrameLook }

// FrameType returns [FrameLooked].
func (Looked) FrameType() FrameType { return FrameLooked }

// FrameType returns [FramePassAck].
func (PassAck) FrameType() FrameType { return FramePassAck }

func (m Look) validate() error { return fewTrees(len(m.Trees)) }

func fewTrees(n int) error {
	if n > MaxTrees {
		return fmt.Errorf("%d file trees, more than %d", n, MaxTrees)
	}
	return nil
}

// TreeWriter sends one pass over a tree, whose bytes only package rootfs knows.
type TreeWriter struct {
	*outgoing
	ctx   context.Context // io.Writer has no other way to take one
	codec func() Codec
	buf   []byte
}

// OpenTree opens a stream for a pass over tree n. ctx is for all that is
// written; codec is asked before each piece how it is to be compressed.
func (s *Session) OpenTree(ctx context.Context, n int, codec func() Codec) (*TreeWriter, error) {
	if !FrameTreeStart.spoken(s.version) {
		return nil, &OldPeerError{Peer: s.peer, Frame: FrameTreeStart, Version: s.version}
	}
	start := binary.BigEndian.AppendUint32(header{FrameTreeStart, treeHeadLen}.appendTo(nil), uint32(n))
	o, err := s.openStreamBy(ctx, start)
	if err != nil {
		return nil, err
	}
	return &TreeWriter{outgoing: o, ctx: ctx, codec: codec}, nil
}

// Write sends bytes of the pass. On an error the stream is lost.
func (w *TreeWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, MaxFileChunk)
		err := w.pack(p[sent : sent+n])
		if err == nil {
			err = w.write(w.ctx, w.buf)
		}
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

// pack makes the frame that carries data: compressed, if that gains anything.
func (w *TreeWriter) pack(data []byte) error {
	const front = headerLen + packedHeadLen
	b, codec, err := compress(slices.Grow(w.buf[:0], front)[:front], data, w.codec(), quick)
	if err != nil {
		return err
	}
	w.buf = b
	if codec == CodecNone {
		w.buf = append(header{FrameFileData, uint32(len(data))}.appendTo(b[:0]), data...)
		return nil
	}
	header{FramePackedData, uint32(len(b) - headerLen)}.appendTo(b[:0])
	b[headerLen] = byte(codec)
	binary.BigEndian.PutUint32(b[headerLen+1:], uint32(len(data)))
	return nil
}

// Abandon loses the stream, unless it has ended: its reader learns that no end
// will come.
func (w *TreeWriter) Abandon(err error) { w.abandon(err) }

const (
	treeHeadLen   = 4     // payload of a TreeStart frame
	packedHeadLen = 1 + 4 // codec and size, in front of what a PackedData frame holds
)

// TreeReader receives one pass over a tree. One goroutine at a time.
type TreeReader struct {
	*incoming
	Tree  int // which one
	ctx   context.Context
	chunk []byte // of the frame, or of room
	room  []byte // for what was compressed
}

func (*TreeReader) start() FrameType { return FrameTreeStart }

// With has Read end with ctx too. If ctx ends the stream is lost.
func (r *TreeReader) With(ctx context.Context) io.Reader {
	r.ctx = ctx
	return r
}

// Read returns the next bytes of the pass, and io.EOF after the end frame if
// everything arrived as it was sent.
func (r *TreeReader) Read(p []byte) (int, error) {
	if len(r.chunk) == 0 {
		frame, err := r.next(r.ctx)
		if err != nil {
			return 0, err
		}
		if r.chunk, err = r.unpack(FrameType(frame[0]), frame[headerLen:]); err != nil {
			return 0, r.fail(err)
		}
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// unpack returns what a frame carries.
func (r *TreeReader) unpack(t FrameType, payload []byte) ([]byte, error) {
	switch t {
	case FrameFileData:
		return payload, nil
	case FramePackedData:
		size := binary.BigEndian.Uint32(payload[1:])
		if size > MaxFileChunk {
			return nil, fmt.Errorf("%w: %d bytes of files in one frame, at most %d are allowed", ErrProtocol, size, MaxFileChunk)
		}
		var err error
		r.room, err = decompress(r.room[:0], payload[packedHeadLen:], int(size), Codec(payload[0]))
		return r.room, err
	}
	return nil, fmt.Errorf("%w: %v in a pass over files", ErrProtocol, t)
}

// End demands that nothing follows.
func (r *TreeReader) End() error {
	var b [1]byte
	_, err := r.Read(b[:])
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = r.fail(fmt.Errorf("%w: a stream goes on behind its pass", ErrProtocol))
	}
	return err
}
