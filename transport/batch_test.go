package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

var allCodecs = []Codec{CodecNone, CodecS2, CodecZstd1, CodecZstd3}

// memory returns n pages that compress to about a third, like a heap.
func memory(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n*PageSize)
	for len(b) < n*PageSize {
		b = fmt.Appendf(b, "key:%012d value:%x,", r.IntN(1e9), r.Uint32())
		b = append(b, make([]byte, r.IntN(24))...)
	}
	return b[:n*PageSize]
}

func mixedBatch() *Batch {
	return &Batch{
		Round: 2, Seq: 9,
		Pieces: []Piece{
			{Kind: PieceData, ImageType: 1, Image: 77, Address: 0x7f0000000000, Pages: 40, Flags: 4},
			{Kind: PieceZero, ImageType: 1, Image: 77, Address: 0x7f0000100000, Pages: 1 << 20},
			{Kind: PieceHave, ImageType: 2, Image: 3, Address: 0, Pages: 3},
			{Kind: PieceData, ImageType: 2, Image: 3, Address: 0x3000, Pages: 24},
			{Kind: PieceZero, ImageType: 1, Image: 77, Address: 0xffff000000000000, Pages: 1, Flags: 2},
		},
		Data: memory(64, 1),
	}
}

func TestBatchRoundTrip(t *testing.T) {
	var got Batch // reused, as a reader does
	for _, b := range []*Batch{
		mixedBatch(),
		{Pieces: []Piece{{Kind: PieceZero, Pages: 1}}},
		{Round: 1, Seq: 1 << 40, Pieces: []Piece{{Kind: PieceData, Pages: MaxBatchData / PageSize}}, Data: memory(MaxBatchData/PageSize, 3)},
	} {
		for _, codec := range allCodecs {
			frame, err := EncodeBatch([]byte("before"), b, codec)
			if err != nil {
				t.Fatal(err)
			}
			if err := DecodeBatch(frame[len("before"):], &got); err != nil {
				t.Fatalf("DecodeBatch(%v) = %v", codec, err)
			}
			if got.Round != b.Round || got.Seq != b.Seq || !reflect.DeepEqual(got.Pieces, b.Pieces) || !bytes.Equal(got.Data, b.Data) {
				t.Errorf("%v: batch %d does not come back", codec, b.Seq)
			}
			if codec != CodecNone && len(b.Data) > 0 && len(frame) > len(b.Data)*2/3 {
				t.Errorf("%v: %d bytes of %d", codec, len(frame), len(b.Data))
			}
		}
	}
}

func TestRandomDataGoAsTheyAre(t *testing.T) {
	data := make([]byte, 16*PageSize)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	b := &Batch{Pieces: []Piece{{Kind: PieceData, Pages: 16}}, Data: data}
	for _, codec := range allCodecs {
		frame, err := EncodeBatch(nil, b, codec)
		if err != nil {
			t.Fatal(err)
		}
		if got := Codec(frame[headerLen+12]); got != CodecNone {
			t.Errorf("%v: codec on the wire = %v, want none", codec, got)
		}
	}
}

func TestEncodeBatchRefuses(t *testing.T) {
	page := make([]byte, PageSize)
	tests := map[string]*Batch{
		"no pieces":       {},
		"too many pieces": {Pieces: make([]Piece, MaxPieces+1)},
		"too much data":   {Pieces: []Piece{{Kind: PieceData, Pages: 257}}, Data: make([]byte, 257*PageSize)},
		"data missing":    {Pieces: []Piece{{Kind: PieceData, Pages: 1}}},
		"data left over":  {Pieces: []Piece{{Kind: PieceZero, Pages: 1}}, Data: page},
		"no kind":         {Pieces: []Piece{{Pages: 1}}},
		"no pages":        {Pieces: []Piece{{Kind: PieceZero}}},
		"unaligned":       {Pieces: []Piece{{Kind: PieceZero, Pages: 1, Address: 1}}},
		"beyond the end":  {Pieces: []Piece{{Kind: PieceZero, Pages: 2, Address: 0xffff_ffff_ffff_f000}}},
	}
	for name, b := range tests {
		if _, err := EncodeBatch(nil, b, CodecNone); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := EncodeBatch(nil, mixedBatch(), 99); err == nil {
		t.Error("unknown codec: no error")
	}
}

// forge makes a batch frame by hand, whose parts need not fit each other.
func forge(h batchHead, pieces []Piece, stored []byte) []byte {
	payload := make([]byte, batchHeadLen)
	h.pieces = max(h.pieces, len(pieces))
	h.put(payload)
	for _, p := range pieces {
		payload = p.appendTo(payload)
	}
	payload = append(payload, stored...)
	return append(header{FrameBatch, uint32(len(payload))}.appendTo(nil), payload...)
}

func TestDecodeBatchHostile(t *testing.T) {
	one := []Piece{{Kind: PieceData, Pages: 1}}
	bomb := make([]byte, 64<<20)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	page := enc.EncodeAll(make([]byte, PageSize), nil)
	good, err := EncodeBatch(nil, mixedBatch(), CodecZstd1)
	if err != nil {
		t.Fatal(err)
	}
	with := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	tests := map[string]struct {
		frame []byte
		want  string
	}{
		"empty":                     {nil, "frame header"},
		"wrong type":                {with(0, byte(FrameFileData)), "FileData"},
		"flags":                     {with(1, 1), "flags"},
		"length too big":            {with(2, 0xff), "want 28 to"},
		"truncated":                 {good[:len(good)-1], "header says"},
		"reserved byte":             {with(headerLen+13, 1), "reserved"},
		"no pieces":                 {with(headerLen+15, 0), "0 pieces"},
		"more pieces than bytes":    {forge(batchHead{pieces: 500, codec: CodecNone}, one, nil), "with 500 pieces"},
		"too many pieces":           {forge(batchHead{pieces: MaxPieces + 1, codec: CodecNone}, one, nil), "4097 pieces"},
		"data above the limit":      {forge(batchHead{codec: CodecNone, data: MaxBatchData + 1}, one, nil), "1048577 bytes"},
		"data far above the limit":  {forge(batchHead{codec: CodecNone, data: 0xffffffff}, one, nil), "4294967295 bytes"},
		"sum of pieces":             {forge(batchHead{codec: CodecNone, data: 2 * PageSize}, one, make([]byte, 2*PageSize)), "pieces need"},
		"sum of pieces overflows":   {forge(batchHead{codec: CodecNone}, slicesOf(Piece{Kind: PieceData, Pages: 0xffffffff}, 4096), nil), "pieces need"},
		"data missing":              {forge(batchHead{codec: CodecNone, data: PageSize}, one, make([]byte, 5)), "5, 4096 announced|data of 5 bytes"},
		"unknown codec":             {forge(batchHead{codec: 9, data: PageSize}, one, nil), "codec 9"},
		"codec zero":                {forge(batchHead{data: PageSize}, one, nil), "codec 0"},
		"bad checksum":              {with(headerLen+27, good[headerLen+27]+1), "checksum"},
		"piece changed":             {with(headerLen+batchHeadLen+22, 9), "checksum"},
		"zstd bomb":                 {forge(batchHead{codec: CodecZstd1, data: PageSize}, one, enc.EncodeAll(bomb, nil)), "zstd1 data"},
		"two zstd frames":           {forge(batchHead{codec: CodecZstd1, data: PageSize}, one, append(bytes.Clone(page), page...)), "zstd1 data"},
		"s2 bomb":                   {forge(batchHead{codec: CodecS2, data: PageSize}, one, s2.Encode(nil, bomb)), "s2 data"},
		"s2 of too little":          {forge(batchHead{codec: CodecS2, data: PageSize}, one, s2.Encode(nil, bomb[:9])), "s2 data"},
		"s2 rubbish":                {forge(batchHead{codec: CodecS2, data: PageSize}, one, []byte{0x80, 0x20, 1, 2, 3}), "s2 data"},
		"zstd rubbish":              {forge(batchHead{codec: CodecZstd3, data: PageSize}, one, []byte("no zstd")), "zstd3 data"},
		"zstd with nothing in it":   {forge(batchHead{codec: CodecZstd3, data: PageSize}, one, nil), "zstd3 data"},
		"unknown kind":              {forge(batchHead{codec: CodecNone}, []Piece{{Kind: 7, Pages: 1}}, nil), "kind 7"},
		"data where no data may be": {forge(batchHead{codec: CodecNone}, []Piece{{Kind: PieceZero, Pages: 1}}, []byte{1}), "data of 1 bytes"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b Batch
			err := DecodeBatch(tt.frame, &b)
			if !errors.Is(err, ErrProtocol) || !containsAny(err.Error(), strings.Split(tt.want, "|")) {
				t.Errorf("DecodeBatch = %v, want a protocol error with %q", err, tt.want)
			}
			if cap(b.Data) > 2*MaxBatchData {
				t.Errorf("%d bytes were allocated", cap(b.Data))
			}
		})
	}
}

func containsAny(s string, subs []string) bool {
	for _, sub := range subs {
		if strings.Contains(s, sub) {
			return true
		}
	}
	return false
}

func slicesOf(p Piece, n int) []Piece {
	s := make([]Piece, n)
	for i := range s {
		s[i] = p
	}
	return s
}

func TestGoldenBatch(t *testing.T) {
	b := &Batch{
		Round: 3, Seq: 0x0102030405060708,
		Pieces: []Piece{
			{Kind: PieceData, ImageType: 0x11, Image: 0x2122232425262728, Address: 0x3132333435363000, Pages: 1, Flags: 0x51},
			{Kind: PieceHave, ImageType: 0x12, Image: 2, Address: 0x1000, Pages: 0x41424344, Flags: 0x52},
		},
		Data: bytes.Repeat([]byte{0xaa}, PageSize),
	}
	const head = "41" + "00" + "0000104a" + // type, flags, 28 + 2*23 + 4096
		"00000003" + "0102030405060708" + "01" + "00" + "0002" + "00001000" // round, seq, codec, reserved, pieces, data
	const table = "01" + "11" + "2122232425262728" + "3132333435363000" + "00000001" + "51" +
		"03" + "12" + "0000000000000002" + "0000000000001000" + "41424344" + "52"
	sum := fmt.Sprintf("%016x", checksum(unhex(t, table), b.Data))
	want := unhex(t, head+sum+table+strings.Repeat("aa", PageSize))
	got, err := EncodeBatch(nil, b, CodecNone)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("EncodeBatch = %x…, %v, want %x…", got[:headerLen+batchHeadLen+2*pieceLen], err, want[:headerLen+batchHeadLen+2*pieceLen])
	}
	if sum := binary.BigEndian.Uint64(got[headerLen+20:]); sum != 0x7857ca8d8384ff4f {
		t.Errorf("checksum = %#x", sum)
	}

	// What an encoder once made must stay readable. The first byte string is s2's
	// own format, the second is a frame of RFC 8878 with one RLE block.
	for codec, stored := range map[Codec]string{
		CodecS2:    "802000aa11011900f30e",
		CodecZstd1: "28b52ffd" + "60000f" + "038000" + "aa",
		CodecZstd3: "28b52ffd" + "60000f" + "038000" + "aa",
	} {
		var b Batch
		h := batchHead{round: 3, codec: codec, data: PageSize, sum: checksum(unhex(t, table), want[len(want)-PageSize:])}
		frame := append(unhex(t, "4100000000"), 0)
		frame = append(frame, make([]byte, batchHeadLen)...)
		h.pieces = 2
		h.put(frame[headerLen:])
		frame = append(append(frame, unhex(t, table)...), unhex(t, stored)...)
		header{FrameBatch, uint32(len(frame) - headerLen)}.appendTo(frame[:0])
		if err := DecodeBatch(frame, &b); err != nil || !bytes.Equal(b.Data, want[len(want)-PageSize:]) {
			t.Errorf("DecodeBatch(%v) = %v", codec, err)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(zeroBatch(f, 3))
	// A page that compresses to nothing: the fuzzer is slow with long inputs.
	small := &Batch{Pieces: []Piece{{Kind: PieceData, Pages: 1}, {Kind: PieceHave, Address: PageSize, Pages: 9}}, Data: make([]byte, PageSize)}
	for _, c := range allCodecs[1:] {
		frame, err := EncodeBatch(nil, small, c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		var b, again Batch
		if err := DecodeBatch(frame, &b); err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("DecodeBatch = %v, want a protocol error", err)
			}
			return
		}
		frame, err := EncodeBatch(nil, &b, CodecNone)
		if err != nil {
			t.Fatalf("EncodeBatch of what was decoded = %v", err)
		}
		if err := DecodeBatch(frame, &again); err != nil || !reflect.DeepEqual(b.Pieces, again.Pieces) || !bytes.Equal(b.Data, again.Data) {
			t.Fatalf("round trip: %v", err)
		}
	})
}

func BenchmarkEncodeBatch(bb *testing.B) {
	b := &Batch{Pieces: []Piece{{Kind: PieceData, Pages: 64}}, Data: memory(64, 1)}
	for _, c := range allCodecs {
		bb.Run(c.String(), func(bb *testing.B) {
			bb.SetBytes(int64(len(b.Data)))
			var frame []byte
			var err error
			for bb.Loop() {
				if frame, err = EncodeBatch(frame[:0], b, c); err != nil {
					bb.Fatal(err)
				}
			}
			bb.ReportMetric(float64(len(b.Data))/float64(len(frame)), "ratio")
		})
	}
}

func BenchmarkDecodeBatch(bb *testing.B) {
	b := &Batch{Pieces: []Piece{{Kind: PieceData, Pages: 64}}, Data: memory(64, 1)}
	for _, c := range allCodecs {
		bb.Run(c.String(), func(bb *testing.B) {
			frame, err := EncodeBatch(nil, b, c)
			if err != nil {
				bb.Fatal(err)
			}
			bb.SetBytes(int64(len(b.Data)))
			var got Batch
			for bb.Loop() {
				if err := DecodeBatch(frame, &got); err != nil {
					bb.Fatal(err)
				}
			}
		})
	}
}
