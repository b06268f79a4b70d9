package pages

import (
	"context"
	"fmt"
	"io"

	"migrate/internal/priority"
	"migrate/predump"
	"migrate/transport"
)

// Reader reads pages of a frozen task into buf, which they fill.
type Reader func(im predump.Image, address uint64, buf []byte) error

// A Final is the last round: it is fed with the list of pages that exist, in
// the order of CRIU's stream, and asks for the content of those that the target
// may not have. Its methods are for one goroutine; their time is frozen time,
// so they only list: reading and comparing is the encoders' work.
type Final struct {
	*Round
	read Reader
	ops  []op
	size uint64 // bytes of content in ops
}

// An op is some pages of the final list.
type op struct {
	piece transport.Piece
	have  bool   // the target has them as they are
	data  []byte // their content, or nil: it is to be read
	sum   bool   // tell the target what they must be
}

// BeginFinal begins the last round, as [Path.Begin] does the others. read is
// called from several goroutines.
func (p *Path) BeginFinal(ctx context.Context, out Out, n int, read Reader) *Final {
	p.pace.Hurry()
	return &Final{Round: p.begin(ctx, out, n, priority.High), read: read}
}

// Have lists pages that the target has. flags are CRIU's.
func (f *Final) Have(im predump.Image, address, pages uint64, flags uint8) error {
	for pages > 0 {
		n := min(pages, maxRun)
		if err := f.add(op{piece: piece(im, address, n, flags), have: true}, 0); err != nil {
			return err
		}
		address, pages = address+n*pageSize, pages-n
	}
	return nil
}

// Unsure lists pages that the target may not have as they are. Their content
// comes from content, or if that is nil is read.
func (f *Final) Unsure(im predump.Image, address, pages uint64, flags uint8, content io.Reader) error {
	for pages > 0 {
		n := min(pages, batchPages-f.size/pageSize)
		o := op{piece: piece(im, address, n, flags)}
		if content != nil {
			o.data = make([]byte, n*pageSize)
			if _, err := io.ReadFull(content, o.data); err != nil {
				return err
			}
		}
		if err := f.add(o, n*pageSize); err != nil {
			return err
		}
		address, pages = address+n*pageSize, pages-n
	}
	return nil
}

// Sum has the target compare pages, which the list must hold already, with
// what they are here now.
func (f *Final) Sum(im predump.Image, address, pages uint64) error {
	for pages > 0 {
		n := min(pages, batchPages-f.size/pageSize)
		if err := f.add(op{piece: piece(im, address, n, 0), sum: true}, n*pageSize); err != nil {
			return err
		}
		address, pages = address+n*pageSize, pages-n
	}
	return nil
}

// SumOf is [Final.Sum] for pages whose content is data.
func (f *Final) SumOf(im predump.Image, address uint64, data []byte) error {
	for len(data) > 0 {
		n := min(uint64(len(data))/pageSize, batchPages)
		if err := f.add(op{piece: piece(im, address, n, 0), sum: true, data: data[:n*pageSize]}, n*pageSize); err != nil {
			return err
		}
		data, address = data[n*pageSize:], address+n*pageSize
	}
	return nil
}

func piece(im predump.Image, address, pages uint64, flags uint8) transport.Piece {
	return transport.Piece{ImageType: im.Type, Image: im.ID, Address: address, Pages: uint32(pages), Flags: flags}
}

func (f *Final) add(o op, size uint64) error {
	f.ops = append(f.ops, o)
	f.size += size
	if f.size < batchBytes && len(f.ops) < maxPieces-batchPages { // each page may become a piece
		return nil
	}
	return f.Flush()
}

// Flush hands over what is listed.
func (f *Final) Flush() error {
	if len(f.ops) == 0 {
		return nil
	}
	ops := f.ops
	f.ops, f.size = nil, 0
	return f.send(func(e *encoder, b *transport.Batch) error {
		for _, o := range ops {
			if err := e.op(b, o, f.read); err != nil {
				return err
			}
		}
		return nil
	})
}

// Finish waits until everything is written and ends the streams.
func (f *Final) Finish() ([]transport.StreamDigest, error) {
	err := f.Flush()
	digests, ferr := f.Round.Finish()
	if ferr != nil {
		return nil, ferr
	}
	return digests, err
}

// op adds some pages of the list to b.
func (e *encoder) op(b *transport.Batch, o op, read Reader) error {
	if o.have {
		o.piece.Kind = transport.PieceHave
		b.Add(o.piece, nil)
		return nil
	}
	im := predump.Image{Type: o.piece.ImageType, ID: o.piece.Image}
	data := o.data
	if data == nil {
		var err error
		if data, err = e.frozen(im, o, read); err != nil {
			return err
		}
	}
	if o.sum {
		o.piece.Kind = transport.PieceSum
		b.Add(o.piece, sums(data))
		return nil
	}
	e.compare(b, im, o.piece, data)
	return nil
}

func (e *encoder) frozen(im predump.Image, o op, read Reader) ([]byte, error) {
	size := int(o.piece.Pages) * pageSize
	if cap(e.data) < size {
		e.data = make([]byte, max(size, batchBytes))
	}
	e.data = e.data[:size]
	if err := read(im, o.piece.Address, e.data); err != nil {
		return nil, fmt.Errorf("reading frozen memory at %#x of %v: %w", o.piece.Address, im, err)
	}
	return e.data, nil
}

func sums(data []byte) []byte {
	out := make([]byte, 0, len(data)/pageSize*16)
	for ; len(data) > 0; data = data[pageSize:] {
		s := transport.PageSum(data[:pageSize])
		out = append(out, s[:]...)
	}
	return out
}

// compare adds pages as what they are: zeros, what the target has, or content.
func (e *encoder) compare(b *transport.Batch, im predump.Image, p transport.Piece, data []byte) {
	e.runs = e.path.table.Split(e.runs[:0], im, p.Address, data)
	for _, r := range e.runs {
		p.Address, p.Pages = r.Addr, uint32(r.Pages)
		switch r.Verdict {
		case predump.Zero:
			p.Kind = transport.PieceZero
			b.Add(p, nil)
		case predump.Have:
			p.Kind = transport.PieceHave
			b.Add(p, nil)
		default:
			p.Kind = transport.PieceData
			e.content(b, p, data[:r.Pages*pageSize])
		}
		data = data[r.Pages*pageSize:]
	}
}
