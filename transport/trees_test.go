package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
)

// openTree opens a stream for a pass, and its other end.
func openTree(ctx context.Context, t *testing.T, n int, codec func() Codec) (*TreeWriter, *TreeReader) {
	t.Helper()
	d, a := pair(t, nil)
	w, err := d.OpenTree(ctx, n, codec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return w, s.(*TreeReader)
}

func plainly() Codec { return CodecNone }

// TestTreeStreamPacked sends text and noise, by one codec after the other.
func TestTreeStreamPacked(t *testing.T) {
	ctx := within(t, 10*time.Second)
	text := bytes.Repeat([]byte("what can be compressed, "), MaxFileChunk/8)
	noise := make([]byte, MaxFileChunk)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	codec := CodecNone
	w, r := openTree(ctx, t, 0, func() Codec { codec = codec%CodecZstd3 + 1; return codec })
	want := slices.Concat(text, noise, text)
	sent := make(chan error, 1)
	go func() {
		_, err := w.Write(want)
		if err == nil {
			_, err = w.End(ctx)
		}
		sent <- err
	}()
	got := make([]byte, len(want))
	_, err := io.ReadFull(r.With(ctx), got)
	if err := errors.Join(err, r.End(), <-sent); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, or other bytes than were sent", err)
	}
	if wire := r.Digest().Bytes; wire > uint64(len(want))/2 {
		t.Errorf("%d bytes took %d on the wire", len(want), wire)
	}
}

// TestTreeStreamHostile sends what would need more room than it may, or lies about it.
func TestTreeStreamHostile(t *testing.T) {
	packed := s2.Encode(nil, make([]byte, MaxFileChunk+1))
	for name, payload := range map[string][]byte{
		"larger than allowed": append(binary.BigEndian.AppendUint32([]byte{byte(CodecS2)}, MaxFileChunk+1), packed...),
		"other size":          append(binary.BigEndian.AppendUint32([]byte{byte(CodecS2)}, MaxFileChunk), packed...),
		"unknown codec":       append(binary.BigEndian.AppendUint32([]byte{99}, 4), "data"...),
		"damaged":             append(binary.BigEndian.AppendUint32([]byte{byte(CodecZstd1)}, 4), "data"...),
	} {
		ctx := within(t, 10*time.Second)
		w, r := openTree(ctx, t, 0, plainly)
		if err := w.write(ctx, append(header{FramePackedData, uint32(len(payload))}.appendTo(nil), payload...)); err != nil {
			t.Fatal(err)
		}
		if n, err := r.With(ctx).Read(make([]byte, 1)); !errors.Is(err, ErrProtocol) || n != 0 {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

func TestTreeStream(t *testing.T) {
	ctx := within(t, 10*time.Second)
	w, r := openTree(ctx, t, 7, plainly)
	want := bytes.Repeat([]byte("0123456789"), 2*MaxFileChunk/10)
	sent := make(chan error, 1)
	go func() {
		_, err := w.Write(want)
		if err == nil {
			_, err = w.Write([]byte("end"))
		}
		if err == nil {
			_, err = w.End(ctx)
		}
		sent <- err
	}()
	got := make([]byte, len(want)+3)
	if _, err := io.ReadFull(r.With(ctx), got); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.End(), <-sent); err != nil || r.Tree != 7 || string(got) != string(want)+"end" {
		t.Errorf("tree %d, %v, or other bytes than were sent", r.Tree, err)
	}
}

// TestTreeStreamGoesOn: what follows a pass is an error, and so is what breaks off.
func TestTreeStreamGoesOn(t *testing.T) {
	ctx := within(t, 10*time.Second)
	w, r := openTree(ctx, t, 0, plainly)
	if _, err := w.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r.With(ctx), make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.End(); !errors.Is(err, ErrProtocol) {
		t.Errorf("End before the end: %v", err)
	}
	w, r = openTree(ctx, t, 0, plainly)
	if _, err := w.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	w.Abandon(errors.New("changed my mind"))
	if _, err := io.ReadAll(r.With(ctx)); !errors.Is(err, ErrCancelled) {
		t.Errorf("a pass that was given up: %v", err)
	}
}

// TestTreesNeedVersion2: a source of trees tells its user to upgrade the other host.
func TestTreesNeedVersion2(t *testing.T) {
	d, _ := pair(t, func(_, listener *Config) { listener.MaxVersion = 1 })
	ctx := within(t, 5*time.Second)
	_, err := d.OpenTree(ctx, 0, plainly)
	if err := errors.Join(d.Send(ctx, Look{})); !errors.Is(err, ErrVersion) {
		t.Errorf("Send(Look) = %v", err)
	}
	if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "older") {
		t.Errorf("OpenTree = %v", err)
	}
}

func TestTooManyTrees(t *testing.T) {
	if err := (Look{Trees: make([]Place, MaxTrees+1)}).validate(); err == nil {
		t.Error("a Look of too many trees is accepted")
	}
	if err := (Offer{ID: "0123456789abcdef", Trees: make([]Tree, MaxTrees+1)}).validate(); err == nil {
		t.Error("an Offer of too many trees is accepted")
	}
}
