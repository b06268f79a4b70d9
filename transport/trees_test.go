package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// openTree opens a stream for a pass, and its other end.
func openTree(ctx context.Context, t *testing.T, n int) (*TreeWriter, *TreeReader) {
	t.Helper()
	d, a := pair(t, nil)
	w, err := d.OpenTree(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return w, s.(*TreeReader)
}

func TestTreeStream(t *testing.T) {
	ctx := within(t, 10*time.Second)
	w, r := openTree(ctx, t, 7)
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
	w, r := openTree(ctx, t, 0)
	if _, err := w.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r.With(ctx), make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.End(); !errors.Is(err, ErrProtocol) {
		t.Errorf("End before the end: %v", err)
	}
	w, r = openTree(ctx, t, 0)
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
	_, err := d.OpenTree(ctx, 0)
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
