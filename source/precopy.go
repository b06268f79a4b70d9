package source

import (
	"context"

	"migrate/predump"
	"migrate/transport"
)

// A collector gathers the pages of a pre-copy pass into batches. It is a
// [predump.Sink]; the pass's buffers are reused, so it copies.
type collector struct {
	sender *sender
	pieces []transport.Piece
	data   []byte
}

func (c *collector) Data(_ context.Context, im predump.Image, address uint64, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), batchBytes-len(c.data))
		c.add(transport.PieceData, im, address, uint64(n/pageSize))
		c.data = append(c.data, data[:n]...)
		data, address = data[n:], address+uint64(n)
		if err := c.flushIfFull(); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) Zero(_ context.Context, im predump.Image, address, pages uint64) error {
	for pages > 0 {
		n := min(pages, maxZeroRun)
		c.add(transport.PieceZero, im, address, n)
		address, pages = address+n*pageSize, pages-n
		if err := c.flushIfFull(); err != nil {
			return err
		}
	}
	return nil
}

// maxZeroRun bounds one piece; a target takes pieces of any 32-bit length.
const maxZeroRun = 1 << 20

// maxPieces keeps a batch of scattered single pages small.
const maxPieces = 1024

func (c *collector) add(kind transport.PieceKind, im predump.Image, address, pages uint64) {
	if n := len(c.pieces); n > 0 {
		last := &c.pieces[n-1]
		if last.Kind == kind && last.Image == im.ID && last.Address+uint64(last.Pages)*pageSize == address {
			last.Pages += uint32(pages)
			return
		}
	}
	c.pieces = append(c.pieces, transport.Piece{
		Kind: kind, ImageType: im.Type, Image: im.ID, Address: address, Pages: uint32(pages),
	})
}

func (c *collector) flushIfFull() error {
	if len(c.data) < batchBytes && len(c.pieces) < maxPieces {
		return nil
	}
	return c.flush()
}

func (c *collector) flush() error {
	if len(c.pieces) == 0 {
		return nil
	}
	pieces, data := c.pieces, c.data
	c.pieces, c.data = nil, make([]byte, 0, batchBytes)
	return c.sender.send(func(b *transport.Batch) error {
		b.Pieces = append(b.Pieces, pieces...)
		b.Data = append(b.Data, data...)
		return nil
	})
}
