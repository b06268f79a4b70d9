package transport

import (
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
)

// table returns the rows under the marker <!-- name --> of docs/protocol.md.
func table(t *testing.T, name string) [][]string {
	t.Helper()
	page, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "<!-- "+name+" -->\n")
	if !ok {
		t.Fatalf("docs/protocol.md has no table %q", name)
	}
	rest, _, _ = strings.Cut(rest, "\n\n")
	var rows [][]string
	for _, line := range strings.Split(rest, "\n")[2:] { // below the heads
		cells := strings.Split(strings.Trim(line, "| "), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

// numbered reads a table of numbers and names.
func numbered(t *testing.T, name string) map[uint64]string {
	t.Helper()
	m := map[uint64]string{}
	for _, row := range table(t, name) {
		n, err := strconv.ParseUint(row[0], 0, 64)
		if err != nil {
			t.Fatalf("table %s: %v", name, err)
		}
		m[n] = row[1]
	}
	return m
}

func names[K ~uint8 | ~uint64](in map[K]string) map[uint64]string {
	out := map[uint64]string{}
	for k, v := range in {
		out[uint64(k)] = v
	}
	return out
}

func TestDocumentedNumbers(t *testing.T) {
	frames := numbered(t, "frames: control")
	for typ := range frames {
		if messages[FrameType(typ)] == nil {
			t.Errorf("%#02x is no message of the control stream", typ)
		}
	}
	maps.Copy(frames, numbered(t, "frames: streams"))
	limits := map[string]int{
		"MaxControl": MaxControl, "MaxBatchData": MaxBatchData, "MaxPieces": MaxPieces, "MaxDelta": MaxDelta, "MaxAhead": MaxAhead, "MaxFileChunk": MaxFileChunk,
		"MaxFileName": MaxFileName, "MaxFiles": MaxFiles, "MaxHostName": MaxHostName,
	}
	documented := map[string]int{}
	for _, row := range table(t, "limits") {
		documented[row[0]], _ = strconv.Atoi(row[1])
	}
	tests := map[string]struct{ docs, code any }{
		"frames": {frames, names(frameNames)},
		"codes":  {numbered(t, "codes"), names(codeNames)},
		"codecs": {numbered(t, "codecs"), names(codecNames)},
		"kinds":  {numbered(t, "kinds"), names(kindNames)},
		"limits": {documented, limits},
	}
	for name, tt := range tests {
		if fmt.Sprint(tt.docs) != fmt.Sprint(tt.code) { // maps print in the order of their keys
			t.Errorf("%s:\ndocs %v\ncode %v", name, tt.docs, tt.code)
		}
	}
}

// The fields of each layout join without a gap, and end where the code's do.
func TestDocumentedLayouts(t *testing.T) {
	layouts := map[string]int{
		"hello": helloLen, "header": headerLen, "batch": batchHeadLen, "piece": pieceLen, "ref": refLen, "file": fileHeadLen, "packed": packedHeadLen, "end": endLen,
	}
	for name, size := range layouts {
		end := 0
		for _, row := range table(t, "layout: "+name) {
			if row[0] != strconv.Itoa(end) {
				t.Errorf("%s: field %q at %s, want %d", name, row[2], row[0], end)
			}
			n, err := strconv.Atoi(row[1])
			if err != nil && row[1] != "…" {
				t.Errorf("%s: size %q", name, row[1])
			}
			end += n
		}
		if end != size {
			t.Errorf("%s: %d bytes, the code has %d", name, end, size)
		}
	}
	page, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(page), "<!-- layout: "); n != len(layouts) {
		t.Errorf("%d layouts are documented, %d compared", n, len(layouts))
	}
	for _, want := range []string{"`" + alpn + "`", "`" + helloMagic + "`", fmt.Sprintf("| %d | ", MaxVersion), fmt.Sprintf("pages are of %d bytes", PageSize)} {
		if !strings.Contains(strings.ToLower(string(page)), strings.ToLower(want)) {
			t.Errorf("docs/protocol.md does not mention %s", want)
		}
	}
}
