package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFindKnown counts how often CRIU is started.
func TestFindKnown(t *testing.T) {
	dir := t.TempDir()
	count, path, kept := filepath.Join(dir, "count"), filepath.Join(dir, "criu"), filepath.Join(dir, "run", "kept")
	install := func(comment string) {
		script := fmt.Sprintf("#!/bin/sh\n# %s\necho start >>%s\nexec %s \"$@\"\n", comment, count, realTool(t).Path)
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	starts := func(what string, f func() (Tool, error)) int {
		t.Helper()
		if err := os.WriteFile(count, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		tool, err := f()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		img, err1 := tool.DumpCPU(t.Context())
		_, err2 := tool.Features(t.Context())
		if err := errors.Join(err1, err2, tool.CheckCPU(t.Context(), img)); err != nil || tool.Path != path {
			t.Fatalf("%s: %s, %v", what, tool.Path, err)
		}
		b, err := os.ReadFile(count)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), "start")
	}
	again := func() (Tool, error) { return FindKnown(t.Context(), path, kept) }
	install("one")
	first := starts("first", again)
	if first == 0 {
		t.Fatal("CRIU was not asked at first")
	}
	if n := starts("again", again); n != 0 {
		t.Errorf("CRIU was started %d times for answers that it had given", n)
	}
	if n := starts("anew", func() (Tool, error) { return FindAnew(t.Context(), path, kept) }); n != first {
		t.Errorf("asked anew, CRIU was started %d times instead of %d", n, first)
	}
	install("two")
	if n := starts("replaced", again); n != first {
		t.Errorf("after its binary was replaced CRIU was started %d times instead of %d", n, first)
	}
	if err := os.Chmod(filepath.Join(kept, knownName), 0o666); err != nil {
		t.Fatal(err)
	}
	if n := starts("not ours alone", again); n != first {
		t.Errorf("answers that anyone could have written were believed: %d starts instead of %d", n, first)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := again(); err == nil {
		t.Error("a binary that is gone is still known")
	}
}

// TestKnownLists demands that a CRIU of which everything is known can list pages as
// well as one that is asked.
func TestKnownLists(t *testing.T) {
	known, err := FindKnown(t.Context(), realTool(t).Path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := known.Features(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := known.CanList(t.Context()), realTool(t).CanList(t.Context()); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("known: %v, asked: %v", got, want)
	}
}
