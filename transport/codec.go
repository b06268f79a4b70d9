package transport

import (
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Codec is how the data of a batch are compressed. Values go over the wire:
// never reuse or renumber one.
type Codec uint8

// The codecs, fastest first. By the megabyte of memory per second and core:
// s2 about 800, zstd1 300, zstd3 250; they shrink to 1/2.5, 1/3.1, 1/3.3.
const (
	CodecNone  Codec = 1
	CodecS2    Codec = 2
	CodecZstd1 Codec = 3 // zstd.SpeedFastest
	CodecZstd3 Codec = 4 // zstd.SpeedDefault
)

var codecNames = map[Codec]string{CodecNone: "none", CodecS2: "s2", CodecZstd1: "zstd1", CodecZstd3: "zstd3"}

// String returns the codec's name.
func (c Codec) String() string {
	if s, ok := codecNames[c]; ok {
		return s
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// gain is what compression must save, in twentieths, to be worth decompressing.
const gain = 1

// effort is how hard s2 tries: thorough, it saves a tenth of the bytes more and
// takes half as long again.
type effort func(dst, src []byte) []byte

var (
	quick    effort = s2.Encode
	thorough effort = s2.EncodeBetter
)

// compress appends data to dst in the form that codec gives, or as they are
// when that saves too little, and says which it was.
func compress(dst, data []byte, codec Codec, e effort) ([]byte, Codec, error) {
	start := len(dst)
	switch codec {
	case CodecNone:
		return append(dst, data...), CodecNone, nil
	case CodecS2:
		dst = slices.Grow(dst, s2.MaxEncodedLen(len(data)))
		packed := e(dst[start:cap(dst)], data)
		dst = dst[:start+len(packed)]
	case CodecZstd1, CodecZstd3:
		pool := &encoders[codec]
		enc := pool.Get().(*zstd.Encoder)
		dst = enc.EncodeAll(data, dst)
		pool.Put(enc)
	default:
		return nil, 0, fmt.Errorf("unknown %v", codec)
	}
	if (len(dst)-start)*20 >= len(data)*(20-gain) {
		return append(dst[:start], data...), CodecNone, nil
	}
	return dst, codec, nil
}

// decompress appends to dst the size bytes that packed must hold, never more.
func decompress(dst, packed []byte, size int, codec Codec) ([]byte, error) {
	dst = slices.Grow(dst, size)
	room := dst[len(dst) : len(dst)+size : len(dst)+size]
	n, err := len(packed), error(nil)
	switch codec {
	case CodecNone:
		if n == size {
			copy(room, packed)
		}
	case CodecS2:
		n, err = unpackS2(room, packed)
	case CodecZstd1, CodecZstd3:
		n, err = unpackZstd(room, packed)
	default:
		return nil, fmt.Errorf("%w: unknown %v", ErrProtocol, codec)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v data: %w", ErrProtocol, codec, err)
	}
	if n != size {
		return nil, fmt.Errorf("%w: %v data of %d bytes, %d announced", ErrProtocol, codec, n, size)
	}
	return dst[:len(dst)+size], nil
}

func unpackS2(room, packed []byte) (int, error) {
	n, err := s2.DecodedLen(packed)
	if err != nil || n != len(room) {
		return n, err
	}
	_, err = s2.Decode(room, packed)
	return n, err
}

// unpackZstd is bounded by the capacity of room, not by what packed says.
func unpackZstd(room, packed []byte) (int, error) {
	dec := decoders.Get().(*zstd.Decoder)
	defer decoders.Put(dec)
	out, err := dec.DecodeAll(packed, room[:0])
	return len(out), err
}

// encoders holds idle encoders by codec, so that each worker has its own.
var encoders = [...]sync.Pool{
	CodecZstd1: {New: func() any { return newEncoder(zstd.SpeedFastest) }},
	CodecZstd3: {New: func() any { return newEncoder(zstd.SpeedDefault) }},
}

func newEncoder(level zstd.EncoderLevel) *zstd.Encoder {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(MaxBatchData), zstd.WithEncoderCRC(false)) // a batch has its own checksum
	if err != nil {
		panic(err) // only for options that contradict each other
	}
	return enc
}

var decoders = sync.Pool{New: func() any {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(MaxBatchData), zstd.WithDecoderMaxWindow(MaxBatchData))
	if err != nil {
		panic(err) // only for options that contradict each other
	}
	return dec
}}
