package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// manyFiles makes a tree of n files in directories of 100, and returns its root.
func manyFiles(tb testing.TB, n int) string {
	tb.Helper()
	root := filepath.Join(tb.TempDir(), "src")
	for i := range n {
		dir := filepath.Join(root, fmt.Sprint("d", i/10000), fmt.Sprint("d", i/100%100))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				tb.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), []byte("content"), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

// touchSome changes n files and waits for nothing.
func touchSome(tb testing.TB, root string, n, round int) {
	tb.Helper()
	for i := range n {
		path := filepath.Join(root, "d0", fmt.Sprint("d", i), fmt.Sprint("file", i*100))
		if err := os.WriteFile(path, fmt.Append(nil, "changed in round ", round), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}

// nowhereTo is a target that takes all and keeps nothing.
func nowhereTo(tb testing.TB, from *Sender, o PassOptions) Stats {
	tb.Helper()
	st, err := from.Pass(tb.Context(), io.Discard, o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := from.Settle(Position{Pass: uint32(st.Pass), Steps: uint64(st.Changes)}); err != nil {
		tb.Fatal(err)
	}
	return st
}

// settled returns a sender that has sent a tree whose last change is long enough ago.
func settled(tb testing.TB, root string) *Sender {
	tb.Helper()
	from, err := NewSender(root, Plain)
	if err != nil {
		tb.Fatal(err)
	}
	for st := (Stats{Read: 1}); st.Read > 0; { // until no file is looked at again
		st = nowhereTo(tb, from, PassOptions{})
	}
	return from
}

// TestFinalPassReadsWhatChanged wants a final pass to look at the content of changed files
// alone, however many there are.
func TestFinalPassReadsWhatChanged(t *testing.T) {
	root := manyFiles(t, 3000)
	from := settled(t, root)
	touchSome(t, root, 10, 0)
	st := nowhereTo(t, from, PassOptions{Final: true})
	if st.Changes != 10 || st.Entries != 3032 || st.Read != st.Data || st.Data > 10*20 {
		t.Fatalf("final pass: %+v, want 10 changes of 3032 names and nothing else read", st)
	}
}

func BenchmarkFinalPass(b *testing.B) {
	root := manyFiles(b, 100_000)
	from := settled(b, root)
	var walk, took time.Duration
	for i := 0; b.Loop(); i++ {
		touchSome(b, root, 10, i)
		st := nowhereTo(b, from, PassOptions{Final: true})
		walk, took = walk+st.Walk, took+st.Took
	}
	b.ReportMetric(float64(walk.Milliseconds())/float64(b.N), "walk-ms/op")
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "pass-ms/op")
}

func BenchmarkFirstPass(b *testing.B) {
	root := manyFiles(b, 20_000)
	for b.Loop() {
		from, err := NewSender(root, Plain)
		if err != nil {
			b.Fatal(err)
		}
		p := Place{Path: filepath.Join(filepath.Dir(root), "place"), ID: testID}
		to, err := p.Open(StageOptions{Kind: Plain, Limits: Limits{Bytes: 1 << 34, Entries: 1 << 20}})
		if err != nil {
			b.Fatal(err)
		}
		var stream bytes.Buffer
		if _, err := from.Pass(b.Context(), &stream, PassOptions{}); err != nil {
			b.Fatal(err)
		}
		if _, err := to.Apply(b.Context(), &stream); err != nil {
			b.Fatal(err)
		}
		to.Close()
		b.StopTimer()
		if err := p.Discard(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkPatch sends one changed block of a file of 1 GiB.
func BenchmarkPatch(b *testing.B) {
	root := manyFiles(b, 1)
	path := filepath.Join(root, "big")
	if err := os.WriteFile(path, bytes.Repeat([]byte("0123456789abcdef"), 64<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	from := settled(b, root)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(1 << 30)
	for i := 0; b.Loop(); i++ {
		if _, err := f.WriteAt(fmt.Append(nil, "round ", i), 500<<20); err != nil {
			b.Fatal(err)
		}
		if st := nowhereTo(b, from, PassOptions{Final: true}); st.Data != blockSize {
			b.Fatalf("%+v, want one block", st)
		}
	}
}
