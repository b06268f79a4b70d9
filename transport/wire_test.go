package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestGoldenStreams(t *testing.T) {
	sum := func(hexFrames string) string {
		h := PageSum(unhex(t, hexFrames)) // the same hash
		return hex.EncodeToString(h[:])
	}
	const pages = "400000000000" + // start
		"410000000033" + "00000000" + "0000000000000001" + "01" + "00" + "0001" + "00000000" + "SUM" +
		"02" + "00" + "0000000000000000" + "0000000000000000" + "00000005" + "00"
	piece := unhex(t, pages[len(pages)-2*pieceLen:])
	pagesHex := strings.Replace(pages, "SUM", fmt.Sprintf("%016x", checksum(piece, nil)), 1)
	const files = "420000000000" + // start
		"43000000000d" + "0000000000000003" + "000001a4" + "61" + // header: 3 bytes, 0644, "a"
		"440000000003" + "616263"
	tests := map[string]struct{ got, want string }{
		"header": {hex.EncodeToString(header{FrameBatch, 0x01020304}.appendTo(nil)), "410001020304"},
		"hello":  {hex.EncodeToString(hello{Min: 1, Max: 0x0203, Host: "ab.c"}.appendTo(nil)), "4d494752" + "0001" + "0203" + "04" + "61622e63"},
		"pages": {
			hex.EncodeToString(streamOf(t, frameOf(FramePagesStart, ""), zeroBatch(t, 1))),
			pagesHex + "450000000028" + "0000000000000001" + "0000000000000005" + "000000000000003f" + sum(pagesHex),
		},
		"files": {
			hex.EncodeToString(streamOf(t, frameOf(FrameFilesStart, ""), FileHeader{"a", 3, 0o644}.appendTo(nil), frameOf(FrameFileData, "abc"))),
			files + "450000000028" + "0000000000000001" + "0000000000000000" + "0000000000000022" + sum(files),
		},
		"message": {string(must(encodeMessage(Cancel{Reason: "x"}))), "\x16\x00\x00\x00\x00\x0e" + `{"reason":"x"}`},
	}
	for name, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", name, tt.got, tt.want)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestParseHello(t *testing.T) {
	tests := map[string]struct {
		raw string
		ok  bool
	}{
		"good":          {"MIGR\x00\x01\x00\x02\x01a", true},
		"longest name":  {"MIGR\x00\x01\x00\x02\xff" + strings.Repeat("a", 255), true},
		"magic":         {"MIGS\x00\x01\x00\x02\x01a", false},
		"no version":    {"MIGR\x00\x00\x00\x02\x01a", false},
		"wrong order":   {"MIGR\x00\x03\x00\x02\x01a", false},
		"no name":       {"MIGR\x00\x01\x00\x02\x00", false},
		"bad name":      {"MIGR\x00\x01\x00\x02\x01/", false},
		"cut off":       {"MIGR\x00\x01\x00", false},
		"name cut off":  {"MIGR\x00\x01\x00\x02\x04ab", false},
		"not our thing": {"GET / HTTP/1.1\r\n", false},
	}
	for name, tt := range tests {
		if h, err := readHello(strings.NewReader(tt.raw)); (err == nil) != tt.ok {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestCommonVersion(t *testing.T) {
	tests := []struct {
		aMin, aMax, bMin, bMax, want uint16 // 0: none
	}{
		{1, 1, 1, 1, 1}, {1, 3, 2, 9, 3}, {2, 9, 1, 3, 3}, {1, 9, 4, 5, 5}, {1, 1, 2, 2, 0}, {5, 9, 1, 4, 0}, {1, 2, 2, 3, 2},
	}
	for _, tt := range tests {
		v, err := common(hello{Min: tt.aMin, Max: tt.aMax}, hello{Min: tt.bMin, Max: tt.bMax})
		if v != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("common(%d-%d, %d-%d) = %d, %v, want %d", tt.aMin, tt.aMax, tt.bMin, tt.bMax, v, err, tt.want)
		}
	}
}

// Every message has a number, a decoder and a name, and comes back as it was.
func TestMessages(t *testing.T) {
	if len(messages)+8 != len(frameNames) {
		t.Errorf("%d messages and 8 other frames, but %d names", len(messages), len(frameNames))
	}
	for typ, dec := range messages {
		m, err := dec([]byte(`{"id":"0123456789abcdef","drain":"0123456789abcdef","phase":"held"}`))
		if err != nil {
			t.Errorf("%v: %v", typ, err)
			continue
		}
		name := reflect.TypeOf(m).Name()
		if m.FrameType() != typ || typ.String() != name {
			t.Errorf("frame %#02x (%v) decodes to %s, whose type is %v", uint8(typ), typ, name, m.FrameType())
		}
		frame, err := encodeMessage(m)
		if err != nil {
			t.Errorf("%v: %v", typ, err)
			continue
		}
		if again, err := decodeMessage(MaxVersion, FrameType(frame[0]), frame[headerLen:]); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%v: %+v, %v, want %+v", typ, again, err, m)
		}
	}
}

func TestEmptyMessagesComeBack(t *testing.T) {
	for _, m := range []Message{VerdictDone{}, State{ID: "0123456789abcdef"}, Progress{}, Answer{}, StatusReply{}, Refused{}, Abort{}} {
		frame := must(encodeMessage(m))
		if again, err := decodeMessage(MaxVersion, m.FrameType(), frame[headerLen:]); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%v: %+v, %v", m.FrameType(), again, err)
		}
	}
}

func TestSendTooBig(t *testing.T) {
	d, a := pair(t, nil)
	ctx := within(t, 5*time.Second)
	if err := d.Send(ctx, Offer{Init: make([]byte, MaxControl)}); err == nil {
		t.Error("no error")
	}
	if err := d.Send(ctx, Commit{}); err != nil {
		t.Errorf("the next message: %v", err)
	}
	if m, err := a.Receive(ctx); err != nil || m != (Commit{}) {
		t.Errorf("Receive = %v, %v", m, err)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte{byte(FrameBatch), 0, 0, 0, 1, 0})
	f.Add([]byte{byte(FrameCommit), 0, 0, 0, 0, 2})
	f.Add([]byte{byte(FrameStreamEnd), 0, 0, 0, 0, endLen})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("parseHeader = %v, want a protocol error", err)
			}
			return
		}
		if !bytes.Equal(h.appendTo(nil), b[:headerLen]) || h.Length > MaxControl {
			t.Fatalf("parseHeader(% x) = %+v", b[:headerLen], h)
		}
	})
}

func FuzzReadHello(f *testing.F) {
	f.Add([]byte("MIGR\x00\x01\x00\x02\x01a"))
	f.Add([]byte("MIGR\x00\x01\x00\x02\x09host-1.ex"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, h.appendTo(nil)) {
			t.Fatalf("readHello(% x) = %+v", b, h)
		}
	})
}

func FuzzParseFileHeader(f *testing.F) {
	f.Add(FileHeader{"pages-1.img", 4096, 0o600}.appendTo(nil)[headerLen:])
	f.Add(FileHeader{"..", 1, 0o777}.appendTo(nil)[headerLen:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) <= fileHeadLen || len(b) > fileHeadLen+MaxFileName {
			return // refused with the frame's header
		}
		h, err := parseFileHeader(b)
		if err != nil {
			return
		}
		if !bytes.Equal(h.appendTo(nil)[headerLen:], b) || strings.ContainsAny(h.Name, "/\x00") || h.Name == ".." || h.Name == "." || h.Size < 0 {
			t.Fatalf("parseFileHeader(% x) = %+v", b, h)
		}
	})
}
