package workload

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFilesInUse looks at this very process.
func TestFilesInUse(t *testing.T) {
	dir := t.TempDir()
	make := func(name string, flags int) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), flags|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := unix.Truncate(f.Name(), 4096); err != nil {
			t.Fatal(err)
		}
		return f
	}
	remove := func(names ...string) {
		for _, name := range names {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mmap := func(f *os.File, how int) {
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, how)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(m) })
	}
	make("read", os.O_RDONLY)
	make("written", os.O_WRONLY)
	make("deleted", os.O_RDWR)
	make("renamed", os.O_RDWR)
	mmap(make("private", os.O_RDONLY), unix.MAP_PRIVATE)
	mmap(make("shared", os.O_RDONLY), unix.MAP_SHARED)
	mmap(make("new\nline", os.O_RDONLY), unix.MAP_SHARED)
	make("name", os.O_RDWR)
	if err := os.Link(filepath.Join(dir, "name"), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	remove("deleted", "name")
	if err := os.Rename(filepath.Join(dir, "renamed"), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	list, err := FilesInUse(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range list {
		name, ok := strings.CutPrefix(f.Path, dir+"/")
		if !ok && f.Path != "" {
			continue // of the test's own
		}
		if f.Mapped {
			name += " mapped"
		}
		got = append(got, name)
	}
	slices.Sort(got)
	if want := []string{"", "moved", "new\nline mapped", "shared mapped", "written"}; !slices.Equal(got, want) {
		t.Errorf("in use: %q, want %q", got, want)
	}
}
