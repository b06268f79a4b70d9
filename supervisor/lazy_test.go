package supervisor

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/criu"
	"migrate/internal/lazymap"
)

// lazyDumped starts a workload of size MiB on a host of its own and takes it away as
// images whose lazy pages are in a store beside them.
func lazyDumped(t *testing.T, name string, size int, tasks ...string) (d dumped, act string) {
	t.Helper()
	src := newHost(t)
	act = filepath.Join(t.TempDir(), "act")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append([]string{self, lazyVerb, fmt.Sprint(size), act}, tasks...)
	c := src.runIn(name, RunSpec{Argv: argv, Env: []string{"GOTRACEBACK=all"}})
	src.waitLog(name, "stdout", "ready")
	d = src.dump(c, name)
	waitGone(t, src.record(name).Supervisor.PID)
	return d, act
}

// onTmpfs gives images a place in memory, as a target does.
func onTmpfs(t *testing.T) string {
	dir := t.TempDir()
	if err := unix.Mount("migrate-test", dir, "tmpfs", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// makeLazy takes the pages that CRIU allows to come later out of the images, and
// returns the path of the map that tells where they are.
func makeLazy(t *testing.T, images string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(images, "pagemap-*.img"))
	if err != nil {
		t.Fatal(err)
	}
	m := lazymap.Map{}
	for _, path := range paths {
		var pid uint64
		if _, err := fmt.Sscanf(filepath.Base(path), "pagemap-%d.img", &pid); err != nil {
			continue // of shared memory
		}
		moveLazy(t, images, pid, &m)
	}
	if m.Pages() == 0 {
		t.Fatal("there are no lazy pages")
	}
	path := filepath.Join(images, "lazy.map")
	if err := lazymap.Write(path, m); err != nil {
		t.Fatal(err)
	}
	return path
}

func moveLazy(t *testing.T, images string, pid uint64, m *lazymap.Map) {
	t.Helper()
	im := criu.PageImage{Type: criu.TaskImage, ID: pid}
	pm, err := criu.ReadPagemap(images, im)
	if err != nil {
		t.Fatal(err)
	}
	pages := filepath.Join(images, criu.PagesName(pm.PagesID))
	store := fmt.Sprintf("store-%d", pid)
	if err := os.Rename(pages, filepath.Join(images, store)); err != nil {
		t.Fatal(err)
	}
	m.Files = append(m.Files, store)
	from, err := os.Open(filepath.Join(images, store))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(pages)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	slot := uint64(0)
	for i, e := range pm.Entries {
		if e.Flags&criu.PageLazy != 0 {
			pm.Entries[i].Flags = criu.PageLazy
			m.Rows = append(m.Rows, lazymap.Row{Image: pid, Address: e.Address, Pages: e.Pages, File: len(m.Files) - 1, Slot: slot})
		} else if _, err := io.Copy(to, io.NewSectionReader(from, int64(slot)*4096, int64(e.Pages)*4096)); err != nil {
			t.Fatal(err)
		}
		slot += e.Pages
	}
	if err := criu.WritePagemap(images, im, pm); err != nil {
		t.Fatal(err)
	}
}

// lazyHeld restores d lazily and returns it held.
func (h *testHost) lazyHeld(name string, d dumped) *Client {
	h.t.Helper()
	spec := d.spec(name)
	spec.Lazy, spec.LazyMap = true, makeLazy(h.t, d.images)
	c := h.start(name)
	p := d.prepare(name)
	p.Lazy = true
	if err := c.Prepare(h.t.Context(), p); err != nil {
		h.t.Fatal(err)
	}
	begin := time.Now()
	if _, err := c.Restore(h.t.Context(), spec); err != nil {
		h.t.Fatalf("restore: %v\n%s", err, criuLog(d))
	}
	h.t.Logf("restore to held: %v", time.Since(begin))
	return c
}

func resume(t *testing.T, c *Client) {
	t.Helper()
	if _, err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLazy(t *testing.T) {
	for name, tasks := range map[string]string{
		"verify": "verify", "threads": "random verify random random", "fork": "fork", "forks": "fork fork verify fork",
		"remap": "remap", "drop": "drop", "all": "fork remap drop random", "wipe": "fork wipe",
	} {
		t.Run(name, func(t *testing.T) {
			d, act := lazyDumped(t, n("s-lz-"+name), 256, strings.Fields(tasks)...)
			h, name := newHost(t), n("s-lz-"+name+"-b")
			c := h.lazyHeld(name, d)
			os.WriteFile(act, nil, 0o600)
			resume(t, c)
			h.waitLog(name, "stdout", "done")
			t.Log(h.log(name, "stdout"))
			if !strings.Contains(h.log(name, "stdout"), "<nil>") {
				t.Error("memory is wrong")
			}
			if err := c.AwaitFill(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", *state(t, c).Fill)
		})
	}
}
