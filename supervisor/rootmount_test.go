package supervisor

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/workload/oci"
)

// treeRoot returns a directory with a file in it.
func treeRoot(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	file = filepath.Join(dir, "precious")
	if err := os.WriteFile(file, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

func rootOnly(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// TestRemoveRuntimeDir demands that the files of a container's root outlive what
// a supervisor that died left mounted on them.
func TestRemoveRuntimeDir(t *testing.T) {
	rootOnly(t)
	root, file := treeRoot(t)
	dir := filepath.Join(t.TempDir(), "c.runtime")
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := newRoot(migrate.RootFS{Kind: migrate.RootPlain, Path: root})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.open(dir); err != nil {
		t.Fatal(err)
	}
	inside, err := os.Open(filepath.Join(rootIn(dir), "precious")) // that it is busy changes nothing
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	for range 2 {
		if err := removeRuntimeDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a file of the container's root: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the runtime's directory is still there")
	}
}

// TestRemoveRuntimeDirKeeps has a root that is not mounted, but full.
func TestRemoveRuntimeDirKeeps(t *testing.T) {
	rootOnly(t)
	dir := t.TempDir()
	file := filepath.Join(rootIn(dir), "precious")
	if err := os.Mkdir(rootIn(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeRuntimeDir(dir); err == nil {
		t.Error("removeRuntimeDir = nil, want an error")
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a file that nobody knows: %v", err)
	}
}

// TestContainerRoot follows an overlay from the veil in its place to its end, and
// after the death of its supervisor at each step.
func TestContainerRoot(t *testing.T) {
	rootOnly(t)
	lower, _ := treeRoot(t)
	top := t.TempDir()
	r := migrate.RootFS{
		Kind: migrate.RootOverlay, Path: filepath.Join(top, "root,fs"), Lower: []string{lower},
		Upper: filepath.Join(top, "up:per"), Work: filepath.Join(top, "work"),
	}
	for _, d := range []string{r.Upper, r.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var c *containerRoot
	begin := func() {
		t.Helper()
		var err error
		if c, err = newRoot(r); err == nil {
			err = c.prepare()
		}
		if err != nil || c.overlay() != r.Path {
			t.Fatalf("prepare: %v, %+v", err, c)
		}
		if list, err := os.ReadDir(r.Path); err != nil || len(list) != 0 {
			t.Errorf("behind the veil: %v, %v", list, err)
		}
	}
	gone := func(when string) {
		t.Helper()
		if list, err := os.ReadDir(r.Path); err != nil || len(list) != 0 {
			t.Errorf("%s, something is still mounted: %v, %v", when, list, err)
		}
	}
	begin()
	if err := unmountRoot(c.overlay()); err != nil {
		t.Fatal(err)
	}
	gone("with the veil")
	begin()
	dir := t.TempDir()
	at, err := c.open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(at, "precious")); err != nil {
		t.Errorf("where CRIU finds it: %v", err)
	}
	if err := c.close(false); err != nil {
		t.Fatal(err)
	}
	gone("after a failed restore")
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	begin()
	if _, err := c.open(dir); err != nil {
		t.Fatal(err)
	}
	if err := c.close(true); err != nil {
		t.Fatal(err)
	}
	there, err := oci.OverlayAt(r.Path)
	if err != nil || !there {
		t.Errorf("after a restore: %v, %v", there, err)
	}
	// One that was there before is nobody's to unmount.
	again, err := newRoot(r)
	if err != nil || again.overlay() != "" {
		t.Errorf("with the overlay in its place: %+v, %v", again, err)
	}
	if err := unix.Unmount(r.Path, 0); err != nil {
		t.Error(err)
	}
}
