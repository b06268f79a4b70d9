package transport

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/zeebo/xxh3"
)

// endLen is the payload of the frame that ends a page or file stream: its
// digest.
const endLen = 3*8 + 16

// tally is the digest of a stream as it grows; both ends keep one. QUIC keeps
// others from changing a byte, so that the hash has to find mistakes only: SHA-256
// would be a sixth of all that sending costs.
type tally struct {
	batches, pages, bytes uint64
	hash                  *xxh3.Hasher
}

func newTally() tally { return tally{hash: xxh3.New()} }

func (t *tally) add(frame []byte) {
	t.bytes += uint64(len(frame))
	_, _ = t.hash.Write(frame) // never fails
}

func (t *tally) digest() StreamDigest {
	return StreamDigest{Batches: t.batches, Pages: t.pages, Bytes: t.bytes, XXH3: hex.EncodeToString(t.sum())}
}

// end returns the end frame.
func (t *tally) end() []byte {
	b := header{FrameStreamEnd, endLen}.appendTo(nil)
	b = binary.BigEndian.AppendUint64(b, t.batches)
	b = binary.BigEndian.AppendUint64(b, t.pages)
	b = binary.BigEndian.AppendUint64(b, t.bytes)
	return append(b, t.sum()...)
}

func (t *tally) sum() []byte {
	sum := t.hash.Sum128().Bytes()
	return sum[:]
}

// parseEnd reads the payload of an end frame.
func parseEnd(b []byte) StreamDigest {
	return StreamDigest{
		Batches: binary.BigEndian.Uint64(b), Pages: binary.BigEndian.Uint64(b[8:]),
		Bytes: binary.BigEndian.Uint64(b[16:]), XXH3: hex.EncodeToString(b[24:endLen]),
	}
}

// outgoing is the sending half of a page or file stream.
type outgoing struct {
	s  *Session
	q  *quic.SendStream
	mu sync.Mutex // holds a frame together
	tally
	err error // the stream is lost, or at its end
}

func (s *Session) openStream(ctx context.Context, start FrameType) (*outgoing, error) {
	return s.openStreamBy(ctx, header{start, 0}.appendTo(nil))
}

// openStreamBy opens a stream whose first frame is start.
func (s *Session) openStreamBy(ctx context.Context, start []byte) (*outgoing, error) {
	q, err := s.conn.OpenUniStreamSync(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("opening a stream: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", translate(err))
	}
	o := &outgoing{s: s, q: q, tally: newTally()}
	return o, o.write(ctx, start)
}

// write sends one frame, paced by the bandwidth cap. On an error the stream is
// lost. The caller holds mu, or is alone.
func (o *outgoing) write(ctx context.Context, frame []byte) error {
	if o.err != nil {
		return o.err
	}
	o.add(frame)
	return o.send(ctx, frame)
}

func (o *outgoing) send(ctx context.Context, frame []byte) error {
	for len(frame) > 0 {
		n, err := o.s.bucket.take(ctx, len(frame))
		if err == nil {
			err = interruptible(ctx, o.q.SetWriteDeadline, func() error {
				_, err := o.q.Write(frame[:n])
				return err
			})
		}
		if err != nil {
			return o.fail(err)
		}
		o.s.sent.Add(uint64(n))
		frame = frame[n:]
	}
	return nil
}

// fail gives the stream up: the peer learns that no end frame will come.
func (o *outgoing) fail(err error) error {
	o.q.CancelWrite(quic.StreamErrorCode(CodeCancelled))
	o.err = fmt.Errorf("sending: %w", err)
	return o.err
}

// abandon gives the stream up if nothing else has ended it.
func (o *outgoing) abandon(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		_ = o.fail(err) // which whoever uses the stream next is told
	}
}

// End sends the end frame and closes the stream. It returns what the reader
// must find.
func (o *outgoing) End(ctx context.Context) (StreamDigest, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return StreamDigest{}, o.err
	}
	if err := o.send(ctx, o.end()); err != nil {
		return StreamDigest{}, err
	}
	if err := o.q.Close(); err != nil {
		return StreamDigest{}, o.fail(translate(err))
	}
	o.err = fmt.Errorf("sending: %w", io.ErrClosedPipe)
	return o.digest(), nil
}

// incoming is the receiving half of a page or file stream.
type incoming struct {
	s *Session
	q *quic.ReceiveStream
	tally
	buf frameBuffer
	err error // the stream is lost, or at its end (io.EOF)
}

// Stream is a stream that the peer opened: a [*PageReader], a [*FileReader] or a
// [*TreeReader].
type Stream interface{ start() FrameType }

// AcceptStream waits for the peer's next page or file stream.
func (s *Session) AcceptStream(ctx context.Context) (Stream, error) {
	q, err := s.conn.AcceptUniStream(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("accepting a stream: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("accepting a stream: %w", translate(err))
	}
	in := &incoming{s: s, q: q, tally: newTally()}
	frame, err := in.next(ctx)
	if err != nil {
		return nil, fmt.Errorf("accepting a stream: %w", err)
	}
	switch t := FrameType(frame[0]); {
	case !t.spoken(s.version):
		return nil, in.fail(fmt.Errorf("%w: stream starts with %v", ErrProtocol, t))
	case t == FramePagesStart:
		return &PageReader{incoming: in}, nil
	case t == FrameFilesStart:
		return &FileReader{incoming: in, names: map[string]struct{}{}, left: s.maxFileBytes}, nil
	case t == FrameTreeStart:
		return &TreeReader{incoming: in, Tree: int(binary.BigEndian.Uint32(frame[headerLen:]))}, nil
	default:
		return nil, in.fail(fmt.Errorf("%w: stream starts with %v", ErrProtocol, t))
	}
}

// Digest returns what has been read so far; after io.EOF, the whole stream.
func (in *incoming) Digest() StreamDigest { return in.digest() }

// next returns the next frame, counted, or io.EOF after a good end frame. On
// any other error, ctx's included, the stream is lost.
func (in *incoming) next(ctx context.Context) ([]byte, error) {
	if in.err != nil {
		return nil, in.err
	}
	frame, err := in.read(ctx)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: stream without an end frame", ErrProtocol)
	}
	if err != nil {
		return nil, in.fail(err)
	}
	if FrameType(frame[0]) == FrameStreamEnd {
		return nil, in.finish(ctx, parseEnd(frame[headerLen:]))
	}
	in.add(frame)
	return frame, nil
}

func (in *incoming) read(ctx context.Context) (frame []byte, err error) {
	err = interruptible(ctx, in.q.SetReadDeadline, func() (err error) {
		frame, err = in.buf.next(countingReader{in.q, &in.s.received})
		return err
	})
	return frame, err
}

// finish compares what came with what the sender says it sent.
func (in *incoming) finish(ctx context.Context, theirs StreamDigest) error {
	if ours := in.digest(); ours != theirs {
		return in.fail(fmt.Errorf("%w: stream digest %+v, the sender's is %+v", ErrProtocol, ours, theirs))
	}
	if _, err := in.read(ctx); err == nil {
		return in.fail(fmt.Errorf("%w: stream goes on after its end frame", ErrProtocol))
	} else if !errors.Is(err, io.EOF) {
		return in.fail(fmt.Errorf("after the end frame: %w", err))
	}
	in.err = io.EOF
	return io.EOF
}

func (in *incoming) fail(err error) error {
	code := CodeCancelled
	if errors.Is(err, ErrProtocol) {
		code = CodeProtocol
	}
	in.q.CancelRead(quic.StreamErrorCode(code))
	in.err = fmt.Errorf("receiving: %w", err)
	return in.err
}
