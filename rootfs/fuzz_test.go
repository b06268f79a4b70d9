package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzApply applies well framed frames of any content: none may reach out of the place.
func FuzzApply(f *testing.F) {
	var b bytes.Buffer
	w := newFrameWriter(&b)
	for _, e := range []*entry{
		{verb: create, path: "d", attrs: attrs{kind: directory, mode: 0o755}},
		{verb: create, path: "d/l", attrs: attrs{kind: symlink, target: "../.."}},
		regularFile("d/x"),
	} {
		w.entry(e)
	}
	w.data(0, []byte("0123456789"))
	w.hole(run{0, 4096})
	w.reuse(reuse{0, 1, sum{}})
	w.entry(&entry{verb: link, path: "e", to: "d/x", attrs: attrs{kind: regular}})
	w.w.Flush()
	f.Add(unframed(b.Bytes()))
	b.Reset()
	w.take(1, "d/x")
	w.remove("d")
	w.w.Flush()
	f.Add(unframed(b.Bytes()))
	f.Fuzz(func(t *testing.T, in []byte) {
		dir := memoryDir(t)
		if err := os.WriteFile(dir+"/canary", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p := Place{Path: dir + "/place", ID: testID}
		s, err := p.Open(StageOptions{Kind: Upper, Limits: Limits{Bytes: 1 << 20, Entries: 20, FileSize: 1 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, err = s.Apply(t.Context(), hostile(Upper, func(w *frameWriter) totals { return reframe(w, in) }))
		if err != nil && !errors.Is(err, ErrRefused) && !isSystem(err) {
			t.Errorf("Apply = %v", err)
		}
		if err := p.Discard(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// memoryDir is a directory where nothing is flushed to a disk, if this host has one.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "rootfs-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// isSystem reports whether the file system refused, for want of room or because a value
// is none.
func isSystem(err error) bool {
	_, full := errors.AsType[*FullError](err)
	return full || slices.ContainsFunc([]error{unix.EPERM, unix.EINVAL, unix.ENOTSUP, unix.ERANGE, unix.EOVERFLOW}, func(e error) bool { return errors.Is(err, e) })
}

// unframed turns frames into what reframe reads: a type, a length in two bytes and a
// payload each.
func unframed(b []byte) (out []byte) {
	for len(b) > 0 {
		n := int(binary.BigEndian.Uint32(b[2:]))
		out = append(append(out, b[0], byte(n>>8), byte(n)), b[headerLen:headerLen+n]...)
		b = b[headerLen+n+digestLen:]
	}
	return out
}

func reframe(w *frameWriter, in []byte) totals {
	var t totals
	for len(in) >= 3 {
		kind, n := frameType(in[0]), int(binary.BigEndian.Uint16(in[1:]))
		in = in[3:]
		n = min(n, len(in))
		switch kind {
		case frameData:
			t.data += uint64(max(0, n-8))
		case frameRemove, frameTake, frameEntry:
			t.ops++
		case frameEnd:
			return t
		}
		w.end(append(w.begin(kind), in[:n]...))
		in = in[n:]
	}
	return t
}

// FuzzReader reads any bytes as an offer and as a pass.
func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	w := newFrameWriter(&b)
	w.start(start{tree: Plain, stream: offerStream})
	w.offered("file", []blockSum{{0, sum{Hi: 1, Lo: 2}}, {7, sum{}}})
	w.finish(totals{ops: 1})
	f.Add(b.Bytes())
	f.Add(hostile(Plain, func(w *frameWriter) totals { w.entry(regularFile("x")); return totals{ops: 1} }).Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &Sender{}
		if err := s.Offered(t.Context(), bytes.NewReader(in)); err == nil && s.offered == nil {
			t.Error("an offer is lost")
		}
		r := newFrameReader(bytes.NewReader(in))
		for {
			kind, b, err := r.next()
			if err != nil {
				return
			}
			if e, err := parseEntry(b); kind == frameEntry && err == nil {
				var again bytes.Buffer
				w := newFrameWriter(&again)
				w.entry(e)
				w.w.Flush()
				if got := again.Bytes()[headerLen : again.Len()-digestLen]; !bytes.Equal(got, b) {
					t.Errorf("Entry %x becomes %x", b, got)
				}
			}
		}
	})
}
