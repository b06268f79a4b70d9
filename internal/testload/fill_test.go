package testload

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/s2"
)

func TestFillCompresses(t *testing.T) {
	for fill, want := range map[Fill]struct{ least, most float64 }{
		Random: {0.99, 1.01},
		Text:   {2, 8},
		Mixed:  {2.3, 3.2}, // what a redis server's memory does
	} {
		if got := ratio(fill); got < want.least || got > want.most {
			t.Errorf("s2 makes %s memory %.2f times smaller, want %.2f to %.2f", fill, got, want.least, want.most)
		} else {
			t.Logf("%s: s2 %.2f", fill, got)
		}
	}
}

// ratio compresses a thousand pages in batches of 128 KiB.
func ratio(fill Fill) float64 {
	const pages, batch = 1024, 32
	var compressed int
	g := generator{fill, 1}
	b := make([]byte, batch*pageSize)
	for first := 0; first < pages; first += batch {
		for i := range batch {
			g.page(b[i*pageSize:(i+1)*pageSize], uint64(first+i), 0)
		}
		compressed += len(s2.Encode(nil, b))
	}
	return pages * pageSize / float64(compressed)
}

func TestPagesDiffer(t *testing.T) {
	g := generator{Mixed, 1}
	seen := map[string][2]uint64{}
	for index := range uint64(64) {
		for version := range uint64(8) {
			b := make([]byte, pageSize)
			g.page(b, index, version)
			if was, ok := seen[string(b)]; ok {
				t.Fatalf("page %d version %d equals page %d version %d", index, version, was[0], was[1])
			}
			seen[string(b)] = [2]uint64{index, version}
		}
	}
	again := make([]byte, pageSize)
	g.page(again, 5, 3)
	if first := make([]byte, pageSize); !bytes.Equal(again, func() []byte { g.page(first, 5, 3); return first }()) {
		t.Error("the same page has two contents")
	}
}
