package rootfs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestGoldenStream holds the bytes of version 1: a reader of it must always find them so.
func TestGoldenStream(t *testing.T) {
	var b bytes.Buffer
	w := newFrameWriter(&b)
	w.start(start{tree: Upper, stream: finalStream, pass: 3})
	w.remove("old")
	w.take(1, "moved")
	w.entry(&entry{verb: place, path: "to", slot: 1, attrs: attrs{
		kind: regular, mode: 0o4755, uid: 1, gid: 2, size: 300000, mtime: stamp{-1, 999999999},
		xattrs: []xattr{{"user.a", "\x00"}, {"user.b", ""}},
	}})
	w.data(131072, []byte("data"))
	w.hole(run{262144, 300000})
	w.entry(&entry{verb: link, path: "tp", to: "to", attrs: attrs{kind: regular}})
	w.reuse(reuse{2, 1, sum{Hi: 1, Lo: 2}})
	w.offered("f", []blockSum{{5, sum{Hi: 3, Lo: 4}}})
	w.finish(totals{ops: 4, data: 4})
	want, err := os.ReadFile("testdata/stream-1.hex")
	if err != nil {
		t.Fatal(err)
	}
	if have := hex.Dump(b.Bytes()); have != string(want) {
		t.Errorf("the stream is\n%s", have)
	}
}

// TestFramesAreParsed reads back what was written.
func TestFramesAreParsed(t *testing.T) {
	var b bytes.Buffer
	w := newFrameWriter(&b)
	e := entry{verb: create, path: "p", attrs: attrs{
		kind: symlink, mode: 0o777, uid: 1, gid: 2, rdev: device{3, 4}, mtime: stamp{-5, 6}, target: "t", xattrs: []xattr{{"user.x", "y"}},
	}}
	w.entry(&e)
	r := reuse{9, 3, sum{Hi: 7, Lo: 8}}
	w.reuse(r)
	w.finish(totals{2, 0})
	f := newFrameReader(io.MultiReader(&b, strings.NewReader("rest")))
	if _, p, err := f.next(); err != nil {
		t.Fatal(err)
	} else if got, err := parseEntry(p); err != nil || got.path != e.path || !got.equal(&e.attrs) || got.mtime != e.mtime {
		t.Errorf("Entry %+v, %v", got, err)
	}
	if _, p, err := f.next(); err != nil {
		t.Fatal(err)
	} else if got, err := parseReuse(p); err != nil || got != r {
		t.Errorf("Reuse %+v, %v", got, err)
	}
	if _, p, err := f.next(); err != nil || f.finish(p, totals{2, 0}) != nil {
		t.Errorf("End: %v", err)
	}
	if rest, _ := io.ReadAll(f.r); string(rest) != "rest" {
		t.Errorf("%q is left, what follows the stream was read", rest)
	}
}

// TestDocumentedFrames compares the tables of docs/rootfs.md with the code.
func TestDocumentedFrames(t *testing.T) {
	doc, err := os.ReadFile("../docs/rootfs.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| 0x(\d\d) \| (\w+) \|`).FindAllStringSubmatch(string(doc), -1)
	names := map[string]frameType{
		"Start": frameStart, "Remove": frameRemove, "Take": frameTake, "Entry": frameEntry, "Data": frameData,
		"Reuse": frameReuse, "Hole": frameHole, "End": frameEnd, "Offered": frameOffered,
	}
	for _, row := range rows {
		n, _ := strconv.ParseUint(row[1], 16, 8)
		if names[row[2]] != frameType(n) {
			t.Errorf("the page says that %s is 0x%s", row[2], row[1])
		}
	}
	if len(rows) != len(names) || len(limits) != len(names) {
		t.Errorf("%d frames are described, %d have limits, there are %d", len(rows), len(limits), len(names))
	}
}

func TestComparePaths(t *testing.T) {
	order := []string{"", "a", "a/b", "a/b/c", "a/b-c", "a/c", "a\x01", "a-b", "a-b/c", "ab", "b", "\xff"}
	for i, a := range order {
		for j, b := range order {
			if got := comparePaths(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("comparePaths(%q, %q) = %d", a, b, got)
			}
		}
	}
}

func TestReaderStopsEarly(t *testing.T) {
	_, _, err := newFrameReader(strings.NewReader("\x05\x00")).next()
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a frame that is cut off: %v", err)
	}
}
