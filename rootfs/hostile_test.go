package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hostile writes a pass, well framed, of whatever write sends.
func hostile(kind Kind, write func(w *frameWriter) totals) *bytes.Buffer {
	var b bytes.Buffer
	w := newFrameWriter(&b)
	w.start(start{tree: kind, stream: passStream, pass: 1})
	w.finish(write(w))
	return &b
}

// regularFile returns an Entry that is all right.
func regularFile(path string) *entry {
	return &entry{verb: create, path: path, attrs: attrs{kind: regular, mode: 0o644, size: 10}}
}

func changed(change func(e *entry)) *entry {
	e := regularFile("file")
	change(e)
	return e
}

func TestHostileStreams(t *testing.T) {
	entries := func(list ...*entry) func(*frameWriter) totals {
		return func(w *frameWriter) totals {
			for _, e := range list {
				w.entry(e)
			}
			return totals{ops: uint64(len(list))}
		}
	}
	link := func(path, to string) *entry {
		return &entry{verb: create, path: path, attrs: attrs{kind: symlink, target: to}}
	}
	hard := func(path, to string) *entry {
		return &entry{verb: create + 3, path: path, to: to, attrs: attrs{kind: regular}}
	}
	dir := func(path string) *entry {
		return &entry{verb: create, path: path, attrs: attrs{kind: directory, mode: 0o755}}
	}
	node := func(kind entryKind, major, minor uint32) *entry {
		return &entry{verb: create, path: "node", attrs: attrs{kind: kind, rdev: device{major, minor}}}
	}
	with := func(name string) *entry {
		return changed(func(e *entry) { e.xattrs = []xattr{{name, "value"}} })
	}
	content := func(frames func(w *frameWriter)) func(*frameWriter) totals {
		return func(w *frameWriter) totals {
			w.entry(regularFile("file"))
			frames(w)
			return totals{ops: 1, data: 10}
		}
	}
	for _, tt := range []struct {
		name  string
		write func(*frameWriter) totals
	}{
		{"absolute path", entries(regularFile("/etc/x"))},
		{"parent", entries(regularFile("../x"))},
		{"parent inside", entries(dir("d"), regularFile("d/../../x"))},
		{"dot", entries(regularFile("./x"))},
		{"empty component", entries(dir("d"), regularFile("d//x"))},
		{"slash at the end", entries(regularFile("x/"))},
		{"NUL", entries(regularFile("x\x00y"))},
		{"long name", entries(regularFile(strings.Repeat("x", 256)))},
		{"deep", entries(regularFile(strings.Repeat("x/", MaxDepth) + "x"))},
		{"no path", entries(regularFile(""))},
		{"root removed", func(w *frameWriter) totals { w.remove(""); return totals{ops: 1} }},
		{"remove outside", func(w *frameWriter) totals { w.remove("../canary/file"); return totals{ops: 1} }},
		{"below a link", entries(link("l", "../../canary"), regularFile("l/x"))},
		{"below a link to /", entries(link("l", "/"), dir("l/tmp-x"))},
		{"remove below a link, later", func(w *frameWriter) totals {
			w.entry(link("l", "../../canary"))
			w.remove("l/file")
			return totals{ops: 2}
		}},
		{"link's file updated", entries(link("l", "../../canary/file"), &entry{verb: update, path: "m", attrs: attrs{kind: regular}})},
		{"parent missing", entries(regularFile("d/x"))},
		{"parent is a file", entries(regularFile("d"), regularFile("d/x"))},
		{"twice", entries(regularFile("x"), regularFile("x"))},
		{"out of order", entries(regularFile("y"), regularFile("x"))},
		{"file for a link sent before", entries(link("x", "../../canary/file"), changed(func(e *entry) { e.path, e.verb = "x", update }))},
		{"hard link outside", entries(hard("x", "../../canary/file"))},
		{"hard link by a link", entries(link("l", "../../canary"), hard("x", "l/file"))},
		{"hard link absolute", entries(hard("x", "/etc/passwd"))},
		{"hard link to a directory", entries(dir("d"), hard("x", "d"))},
		{"hard link to a link", entries(link("l", "../../canary/file"), hard("x", "l"))},
		{"hard link to nothing", entries(hard("x", "y"))},
		{"disk", entries(node(blockDevice, 8, 0))},
		{"memory", entries(node(charDevice, 1, 1))},
		{"null as a block device", entries(node(blockDevice, 1, 3))},
		{"whiteout in a plain tree", entries(node(charDevice, 0, 0))},
		{"pipe with a device number", entries(node(fifo, 1, 3))},
		{"socket", entries(changed(func(e *entry) { e.kind = socket }))},
		{"no kind", entries(changed(func(e *entry) { e.kind = 0 }))},
		{"no verb", entries(changed(func(e *entry) { e.verb = 0 }))},
		{"unknown verb", entries(changed(func(e *entry) { e.verb = 9 }))},
		{"mode with a type", entries(changed(func(e *entry) { e.mode = unix.S_IFBLK | 0o600 }))},
		{"nanoseconds", entries(changed(func(e *entry) { e.mtime.nsec = 1e9 }))},
		{"negative size", entries(changed(func(e *entry) { e.size = -1 }))},
		{"giant size", entries(changed(func(e *entry) { e.size = math.MaxInt64 }))},
		{"size over the limit", entries(changed(func(e *entry) { e.size = 1<<30 + 1 }))},
		{"sized directory", entries(changed(func(e *entry) { e.kind = directory }))},
		{"link without target", entries(link("l", ""))},
		{"link with NUL", entries(link("l", "a\x00b"))},
		{"file with target", entries(changed(func(e *entry) { e.target = "x" }))},
		{"trusted attribute", entries(with("trusted.overlay.redirect"))},
		{"label", entries(with("security.selinux"))},
		{"signature", entries(with("security.ima"))},
		{"any other attribute", entries(with("trusted.x"))},
		{"attribute with NUL", entries(with("user.x\x00y"))},
		{"bare user.", entries(with("user."))},
		{"attributes out of order", entries(changed(func(e *entry) { e.xattrs = []xattr{{"user.b", ""}, {"user.a", ""}} }))},
		{"attribute twice", entries(changed(func(e *entry) { e.xattrs = []xattr{{"user.a", ""}, {"user.a", ""}} }))},
		{"update of nothing", entries(changed(func(e *entry) { e.verb = update }))},
		{"place of nothing", entries(changed(func(e *entry) { e.verb, e.slot = place, 7 }))},
		{"place of a directory", entries(&entry{verb: place, path: "d", attrs: attrs{kind: directory}})},
		{"take of nothing", func(w *frameWriter) totals { w.take(1, "x"); return totals{ops: 1} }},
		{"attribute of a link", entries(&entry{verb: create, path: "l", attrs: attrs{kind: symlink, target: "x", xattrs: []xattr{{"user.x", ""}}}})},
		{"root replaced", entries(&entry{verb: create, path: "", attrs: attrs{kind: directory}})},
		{"content of nothing", func(w *frameWriter) totals { w.data(0, []byte("x")); return totals{data: 1} }},
		{"content of a directory", func(w *frameWriter) totals { w.entry(dir("d")); w.data(0, []byte("x")); return totals{1, 1} }},
		{"content beyond the end", content(func(w *frameWriter) { w.data(1, []byte("0123456789")) })},
		{"content before the start", content(func(w *frameWriter) { w.data(-5, []byte("0123456789")) })},
		{"content twice", content(func(w *frameWriter) { w.data(5, []byte("01234")); w.data(5, []byte("01234")) })},
		{"empty content", content(func(w *frameWriter) { w.data(0, nil) })},
		{"hole in a new file", content(func(w *frameWriter) { w.hole(run{0, 5}) })},
		{"reuse without an old tree", content(func(w *frameWriter) { w.reuse(reuse{0, 1, sum{}}) })},
		{"reuse of too much", content(func(w *frameWriter) { w.reuse(reuse{0, maxReuse + 1, sum{}}) })},
		{"reuse far away", content(func(w *frameWriter) { w.reuse(reuse{math.MaxInt64, 1, sum{}}) })},
		{"wrong counts", func(w *frameWriter) totals { w.entry(dir("d")); return totals{ops: 2} }},
		{"offer in a pass", func(w *frameWriter) totals { w.offered("x", nil); return totals{} }},
		{"start twice", func(w *frameWriter) totals { w.start(start{tree: Plain, stream: passStream, pass: 1}); return totals{} }},
		{"cut off entry", func(w *frameWriter) totals { w.end(append(w.begin(frameEntry), 1, 1, 1)); return totals{} }},
		{"cut off take", func(w *frameWriter) totals { w.end(append(w.begin(frameTake), 1)); return totals{} }},
		{"cut off hole", content(func(w *frameWriter) { w.end(append(w.begin(frameHole), 1)) })},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, hostile(Plain, tt.write)) })
	}
}

// refused applies a stream that must be refused and must do nothing outside.
func refused(t *testing.T, stream *bytes.Buffer) {
	t.Helper()
	dir := memoryDir(t)
	shell(t, dir, "mkdir canary target; echo canary >canary/file")
	before := snapshot(t, dir)
	p := Place{Path: filepath.Join(dir, "target", "place"), ID: testID}
	s, err := p.Open(StageOptions{Kind: Plain, Limits: Limits{Bytes: 1 << 20, Entries: 100, FileSize: 1 << 30}, Devices: []Device{null}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Apply(t.Context(), stream); !errors.Is(err, ErrRefused) {
		t.Errorf("Apply = %v, want a refusal", err)
	}
	if err := p.Discard(); err != nil {
		t.Fatal(err)
	}
	after := snapshot(t, dir)
	delete(before, "/target") // whose times tell of the staging
	delete(after, "/target")
	sameNames(t, before, after)
}

// TestDamagedStreams changes a good stream.
func TestDamagedStreams(t *testing.T) {
	good := func() []byte {
		return hostile(Plain, func(w *frameWriter) totals {
			w.entry(regularFile("file"))
			w.data(0, []byte("0123456789"))
			return totals{1, 10}
		}).Bytes()
	}
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
	}{
		{"magic", func(b []byte) []byte { b[headerLen] = 'X'; return resum(b) }},
		{"version", func(b []byte) []byte { b[headerLen+5] = Version + 1; return resum(b) }},
		{"kind", func(b []byte) []byte { b[headerLen+6] = byte(Upper); return resum(b) }},
		{"kind that is none", func(b []byte) []byte { b[headerLen+6] = 0; return resum(b) }},
		{"offer", func(b []byte) []byte { b[headerLen+7] = offerStream; return resum(b) }},
		{"stream that is none", func(b []byte) []byte { b[headerLen+7] = 9; return resum(b) }},
		{"pass 0", func(b []byte) []byte { b[headerLen+11] = 0; return resum(b) }},
		{"block size", func(b []byte) []byte { b[headerLen+15] = 1; return resum(b) }},
		{"type", func(b []byte) []byte { b[0] = 0x77; return b }},
		{"flags", func(b []byte) []byte { b[1] = 1; return b }},
		{"length", func(b []byte) []byte { binary.BigEndian.PutUint32(b[2:], math.MaxUint32); return b }},
		{"a bit", func(b []byte) []byte { b[headerLen+startLen+digestLen+headerLen+7] ^= 1; return b }},
		{"no start", func(b []byte) []byte { return b[headerLen+startLen+digestLen:] }},
		{"a frame is missing", func(b []byte) []byte {
			n := headerLen + startLen + digestLen
			m := n + headerLen + 4 + entryLen + digestLen
			return append(b[:m:m], b[m+headerLen+8+10+digestLen:]...)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, bytes.NewBuffer(tt.change(good()))) })
	}
	for n := range len(good()) { // cut off anywhere
		if n%7 != 0 {
			continue
		}
		s := openStage(t, filepath.Join(memoryDir(t), "place"), Plain)
		if _, err := s.Apply(t.Context(), bytes.NewReader(good()[:n])); err == nil {
			t.Errorf("a stream cut off after %d bytes is applied", n)
		}
	}
}

// resum puts the digest of the first frame right.
func resum(b []byte) []byte {
	var out bytes.Buffer
	w := newFrameWriter(&out)
	w.end(append(w.begin(frameStart), b[headerLen:headerLen+startLen]...))
	w.w.Flush()
	return append(out.Bytes(), b[headerLen+startLen+digestLen:]...)
}

// TestPolicy applies what is allowed.
func TestPolicy(t *testing.T) {
	whiteout := &entry{verb: create, path: "w", attrs: attrs{kind: charDevice}}
	device := &entry{verb: create, path: "n", attrs: attrs{kind: charDevice, mode: 0o666, rdev: device{null.Major, null.Minor}}}
	opaque := &entry{verb: create, path: "d", attrs: attrs{kind: directory, mode: 0o755, xattrs: []xattr{{"trusted.overlay.opaque", "y"}}}}
	origin := &entry{verb: create, path: "d", attrs: attrs{kind: directory, xattrs: []xattr{{"trusted.overlay.origin", "y"}}}}
	setuid := changed(func(e *entry) { e.mode = 0o4755 })
	for _, tt := range []struct {
		name  string
		kind  Kind
		entry *entry
		ok    bool
	}{
		{"whiteout", Upper, whiteout, true},
		{"whiteout of a user", UserUpper, whiteout, true},
		{"device", Plain, device, true},
		{"setuid", Plain, setuid, true},
		{"opaque", Upper, opaque, true},
		{"opaque in the other kind", UserUpper, opaque, false},
		{"file handle", Upper, origin, false},
	} {
		s := openStage(t, filepath.Join(memoryDir(t), "place"), tt.kind)
		_, err := s.Apply(t.Context(), hostile(tt.kind, func(w *frameWriter) totals {
			w.entry(tt.entry)
			return totals{ops: 1}
		}))
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want it to be applied: %v", tt.name, err, tt.ok)
		}
	}
}

// TestWhatIsThere makes in a second pass what the first has made, and removes what is
// not empty.
func TestWhatIsThere(t *testing.T) {
	d := &entry{verb: create, path: "d", attrs: attrs{kind: directory, mode: 0o755}}
	for _, tt := range []struct {
		name  string
		write func(w *frameWriter)
	}{
		{"file", func(w *frameWriter) { w.entry(regularFile("d/x")) }},
		{"directory", func(w *frameWriter) { w.entry(d) }},
		{"file for a directory", func(w *frameWriter) { w.entry(regularFile("d")) }},
		{"link", func(w *frameWriter) {
			w.entry(&entry{verb: link, path: "d/x", to: "d/y", attrs: attrs{kind: regular}})
		}},
		{"update of another kind", func(w *frameWriter) { w.entry(changed(func(e *entry) { e.path, e.verb = "d", update })) }},
		{"removed with what is in it", func(w *frameWriter) { w.remove("d") }},
		{"directory put aside", func(w *frameWriter) { w.take(1, "d") }},
	} {
		s := openStage(t, filepath.Join(memoryDir(t), "place"), Plain)
		if _, err := s.Apply(t.Context(), hostile(Plain, func(w *frameWriter) totals {
			w.entry(d)
			w.entry(regularFile("d/x"))
			w.entry(regularFile("d/y"))
			return totals{ops: 3}
		})); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w := newFrameWriter(&b)
		w.start(start{tree: Plain, stream: passStream, pass: 2})
		tt.write(w)
		w.finish(totals{ops: 1})
		if _, err := s.Apply(t.Context(), &b); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want a refusal", tt.name, err)
		}
	}
}
