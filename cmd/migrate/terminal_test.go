package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

func TestDetachKeys(t *testing.T) {
	for _, c := range []struct {
		in, want string
		detached bool
	}{
		{"ls\n", "ls\n", false},
		{"a\x10\x11b", "a", true},
		{"\x10\x11", "", true},
		{"a\x10b", "a\x10b", false},
		{"\x10\x10\x11", "\x10", true},
		{"a\x11", "a\x11", false},
	} {
		for name, in := range map[string]io.Reader{"at once": strings.NewReader(c.in), "key by key": iotest.OneByteReader(strings.NewReader(c.in))} {
			detached := false
			got, err := io.ReadAll(&detachReader{in: in, detach: func() { detached = true }})
			if err != nil || string(got) != c.want || detached != c.detached {
				t.Errorf("%q %s: got %q, %v, %v", c.in, name, got, detached, err)
			}
		}
	}
}

func TestLastLines(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 999)+"\n", 200)
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"", 3, ""}, {"a\nb\nc\n", 0, ""}, {"a\nb\nc\n", 1, "c\n"}, {"a\nb\nc", 1, "c"}, {"a\nb\nc\n", 2, "b\nc\n"},
		{"a\nb\nc\n", 9, "a\nb\nc\n"}, {"\n\n\n", 2, "\n\n"}, {long, 150, long[50*1000:]},
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		l := tail{path: path}
		var out bytes.Buffer
		if err := l.begin(c.n); err != nil {
			t.Fatal(err)
		}
		if err := l.copy(&out); err != nil || out.String() != c.want {
			t.Errorf("last %d of %.20q: got %.20q (%d bytes), %v", c.n, c.text, out.String(), out.Len(), err)
		}
		l.close()
	}
}

// TestTailRotates follows a file that is renamed while it grows.
func TestTailRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stdout.log")
	add := func(s string) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	l := tail{path: path}
	defer l.close()
	var out bytes.Buffer
	look := func() {
		if err := l.copy(&out); err != nil {
			t.Fatal(err)
		}
	}
	look() // not there yet
	add("1\n")
	look()
	add("2\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	look() // there is no file in its place
	add("3\n")
	look()
	look()
	if want := "1\n2\n3\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// stuck is a terminal that was stopped.
type stuck struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

func TestSpoolNeverBlocks(t *testing.T) {
	w := &stuck{}
	w.mu.Lock()
	s := newSpool(w)
	done := make(chan struct{})
	go func() {
		for range 1000 {
			io.WriteString(s, "line\n")
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("a write waits for the terminal")
	}
	s.queue.close(10 * time.Millisecond) // does not wait for ever
	w.mu.Unlock()
	s.queue.close(0)
	if n := w.got.Len(); n != 5000 {
		t.Errorf("%d bytes arrived", n)
	}
}
