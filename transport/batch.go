package transport

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// PageSize is the unit of memory on the wire, whatever the hosts' own is.
const PageSize = 4096

// Batch is a frame's worth of memory.
type Batch struct {
	Round  uint32
	Seq    uint64 // 0 and up by one over all batches of a round; rises within a stream
	Pieces []Piece
	Data   []byte // content of the pieces, in order; use Add and All
}

// Pages returns the number of pages of all pieces.
func (b *Batch) Pages() uint64 {
	var n uint64
	for _, p := range b.Pieces {
		n += uint64(p.Pages)
	}
	return n
}

const (
	batchHeadLen    = 28
	maxBatchPayload = batchHeadLen + MaxPieces*pieceLen + MaxBatchData
)

// batchHead is the fixed part of a batch's payload.
type batchHead struct {
	round  uint32
	seq    uint64
	codec  Codec
	pieces int // 1 to MaxPieces
	data   int // bytes, not compressed
	sum    uint64
}

func (h batchHead) put(b []byte) {
	binary.BigEndian.PutUint32(b, h.round)
	binary.BigEndian.PutUint64(b[4:], h.seq)
	b[12], b[13] = byte(h.codec), 0
	binary.BigEndian.PutUint16(b[14:], uint16(h.pieces))
	binary.BigEndian.PutUint32(b[16:], uint32(h.data))
	binary.BigEndian.PutUint64(b[20:], h.sum)
}

func parseBatchHead(b []byte) (batchHead, error) {
	h := batchHead{
		round: binary.BigEndian.Uint32(b), seq: binary.BigEndian.Uint64(b[4:]), codec: Codec(b[12]),
		pieces: int(binary.BigEndian.Uint16(b[14:])), sum: binary.BigEndian.Uint64(b[20:]),
	}
	data := binary.BigEndian.Uint32(b[16:])
	if data > MaxBatchData || h.pieces == 0 || h.pieces > MaxPieces || b[13] != 0 {
		return batchHead{}, fmt.Errorf("%w: batch of %d pieces and %d bytes, reserved byte %#02x", ErrProtocol, h.pieces, data, b[13])
	}
	h.data = int(data)
	return h, nil
}

// EncodeBatch appends the frame of b to dst. Workers may call it beside each
// other. Data that codec does not shrink go as they are.
func EncodeBatch(dst []byte, b *Batch, codec Codec) ([]byte, error) {
	return encodeBatch(dst, b, codec, quick)
}

func encodeBatch(dst []byte, b *Batch, codec Codec, e effort) ([]byte, error) {
	if len(b.Pieces) == 0 || len(b.Pieces) > MaxPieces || len(b.Data) > MaxBatchData {
		return nil, fmt.Errorf("batch of %d pieces and %d bytes: want 1 to %d, at most %d", len(b.Pieces), len(b.Data), MaxPieces, MaxBatchData)
	}
	if err := checkTable(b.Pieces, len(b.Data)); err != nil {
		return nil, err
	}
	if err := checkContent(b.Pieces, b.Data); err != nil {
		return nil, err
	}
	start := len(dst)
	dst = append(dst, make([]byte, headerLen+batchHeadLen)...)
	table := len(dst)
	for _, p := range b.Pieces {
		dst = p.appendTo(dst)
	}
	sum := checksum(dst[table:], b.Data)
	dst, codec, err := compress(dst, b.Data, codec, e)
	if err != nil {
		return nil, err
	}
	header{FrameBatch, uint32(len(dst) - start - headerLen)}.appendTo(dst[start:start])
	head := batchHead{round: b.Round, seq: b.Seq, codec: codec, pieces: len(b.Pieces), data: len(b.Data), sum: sum}
	head.put(dst[start+headerLen:])
	return dst, nil
}

// DecodeBatch reads a frame that EncodeBatch made into b, reusing what b
// already holds. It takes nothing in the frame for granted. After an error b
// is not to be used.
func DecodeBatch(frame []byte, b *Batch) error {
	h, table, packed, err := splitBatch(frame)
	if err != nil {
		return err
	}
	b.Round, b.Seq, b.Pieces = h.round, h.seq, slices.Grow(b.Pieces[:0], h.pieces)
	for t := table; len(t) > 0; t = t[pieceLen:] {
		b.Pieces = append(b.Pieces, parsePiece(t))
	}
	if err := checkTable(b.Pieces, h.data); err != nil {
		return err
	}
	if b.Data, err = decompress(b.Data[:0], packed, h.data, h.codec); err != nil {
		return err
	}
	if sum := checksum(table, b.Data); sum != h.sum {
		return fmt.Errorf("%w: batch %d of round %d: checksum %016x, announced %016x", ErrProtocol, h.seq, h.round, sum, h.sum)
	}
	return checkContent(b.Pieces, b.Data)
}

// splitBatch checks the outer form of a batch frame and takes it apart: head,
// piece table, data as they were sent.
func splitBatch(frame []byte) (h batchHead, table, packed []byte, err error) {
	outer, err := parseHeader(frame)
	if err != nil {
		return h, nil, nil, err
	}
	payload := frame[headerLen:]
	if outer.Type != FrameBatch || len(payload) != int(outer.Length) {
		return h, nil, nil, fmt.Errorf("%w: %v of %d bytes, header says %d", ErrProtocol, outer.Type, len(payload), outer.Length)
	}
	if h, err = parseBatchHead(payload); err != nil {
		return h, nil, nil, err
	}
	end := batchHeadLen + h.pieces*pieceLen
	if len(payload) < end {
		return h, nil, nil, fmt.Errorf("%w: batch of %d bytes with %d pieces", ErrProtocol, len(payload), h.pieces)
	}
	return h, payload[batchHeadLen:end], payload[end:], nil
}

var hashes = sync.Pool{New: func() any { return xxhash.New() }}

// checksum covers the piece table and the data before compression.
func checksum(table, data []byte) uint64 {
	h := hashes.Get().(*xxhash.Digest)
	defer hashes.Put(h)
	h.Reset()
	h.Write(table)
	h.Write(data)
	return h.Sum64()
}
