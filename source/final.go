package source

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"migrate/criu"
	"migrate/predump"
	"migrate/transport"
)

// A finalSink takes the pages of the final dump from CRIU. Reading is frozen
// time, so it only reads; workers compare with what the target has and encode.
type finalSink struct {
	sender *sender
	table  *predump.Table // nil without earlier rounds
	done   *atomic.Uint64 // bytes read from CRIU
	free   sync.Pool
}

// Open implements [criu.PageSink]. CRIU is never told of a parent: it sends
// every page that exists, and the table decides what crosses the wire.
func (f *finalSink) Open(criu.PageImage) (bool, error) { return false, nil }

// Extent implements [criu.PageSink].
func (f *finalSink) Extent(e criu.Extent, r io.Reader) error {
	if e.Flags&criu.PagePresent == 0 {
		return fmt.Errorf("page at %#x without content, though no parent was offered", e.Address)
	}
	for e.Pages > 0 {
		chunk := e
		chunk.Pages = min(e.Pages, batchBytes/pageSize)
		data := f.buffer(chunk.Pages)
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if err := f.sender.send(func(b *transport.Batch) error {
			defer f.free.Put(&data)
			f.fill(b, chunk, data)
			return nil
		}); err != nil {
			return err
		}
		f.done.Add(chunk.Pages * pageSize)
		e.Address += chunk.Pages * pageSize
		e.Pages -= chunk.Pages
	}
	return nil
}

// Close implements [criu.PageSink].
func (f *finalSink) Close() error { return nil }

func (f *finalSink) buffer(pages uint64) []byte {
	if p, ok := f.free.Get().(*[]byte); ok {
		return (*p)[:pages*pageSize]
	}
	return make([]byte, pages*pageSize, batchBytes)
}

// fill cuts a chunk into runs of zero pages, pages that the target has, and
// pages whose content must be sent.
func (f *finalSink) fill(b *transport.Batch, e criu.Extent, data []byte) {
	im := predump.Image{Type: uint8(e.Image.Type), ID: e.Image.ID}
	for i := uint64(0); i < e.Pages; i++ {
		page := data[i*pageSize : (i+1)*pageSize]
		kind := pieceKind(f.table.Classify(im, e.Address+i*pageSize, page))
		if kind == transport.PieceData {
			b.Data = append(b.Data, page...)
		}
		if n := len(b.Pieces); n > 0 && b.Pieces[n-1].Kind == kind {
			b.Pieces[n-1].Pages++
			continue
		}
		b.Pieces = append(b.Pieces, transport.Piece{
			Kind: kind, ImageType: im.Type, Image: im.ID,
			Address: e.Address + i*pageSize, Pages: 1, Flags: uint8(e.Flags),
		})
	}
}

func pieceKind(v predump.Verdict) transport.PieceKind {
	switch v {
	case predump.Zero:
		return transport.PieceZero
	case predump.Have:
		return transport.PieceHave
	}
	return transport.PieceData
}
