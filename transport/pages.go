package transport

import (
	"context"
	"fmt"
)

// PageWriter sends batches on one stream. WriteEncoded and End may be called
// from any goroutine.
type PageWriter struct {
	*outgoing
	last uint64 // Seq of the batch before, plus 1; 0 at the start
}

// OpenPages opens a stream for batches. It waits while the peer allows no
// more streams.
func (s *Session) OpenPages(ctx context.Context) (*PageWriter, error) {
	o, err := s.openStream(ctx, FramePagesStart)
	if err != nil {
		return nil, err
	}
	return &PageWriter{outgoing: o}, nil
}

// WriteEncoded sends a frame made by [EncodeBatch]; Seq must rise from one to
// the next. If ctx ends inside the frame the stream is lost.
func (w *PageWriter) WriteEncoded(ctx context.Context, frame []byte) error {
	h, table, _, err := splitBatch(frame)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.seq < w.last {
		return fmt.Errorf("batch %d after batch %d", h.seq, w.last-1)
	}
	w.last = h.seq + 1
	w.batches++
	for ; len(table) > 0; table = table[pieceLen:] {
		w.pages += uint64(parsePiece(table).Pages)
	}
	return w.write(ctx, frame)
}

// PageReader receives the batches of one stream. One goroutine at a time.
type PageReader struct {
	*incoming
	last uint64 // Seq of the batch before, plus 1; 0 at the start
}

func (*PageReader) start() FrameType { return FramePagesStart }

// Next reads the next batch into b, reusing what b holds. It returns io.EOF
// after the end frame if everything arrived as it was sent. If ctx ends first
// the stream is lost.
func (r *PageReader) Next(ctx context.Context, b *Batch) error {
	frame, err := r.next(ctx)
	if err != nil {
		return err
	}
	if err := DecodeBatch(frame, b); err != nil {
		return r.fail(err)
	}
	if b.Seq < r.last {
		return r.fail(fmt.Errorf("%w: batch %d after batch %d", ErrProtocol, b.Seq, r.last-1))
	}
	r.last = b.Seq + 1
	r.batches++
	r.pages += b.Pages()
	return nil
}
