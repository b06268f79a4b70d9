package criu

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cannotList skips a test where pages are not listed because the kernel does
// the real thing.
func cannotList(t *testing.T, tool Tool) {
	t.Helper()
	f, err := tool.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !f.MemTrack {
		return
	}
	if err := tool.CanList(t.Context()); err == nil || !strings.Contains(err.Error(), "soft-dirty") {
		t.Errorf("CanList = %v where the kernel tracks memory, want an error that says so", err)
	}
	t.Skip("this machine has soft-dirty tracking")
}

// TestCanList tries it twice at once, and looks for traces.
func TestCanList(t *testing.T) {
	tool := realTool(t)
	cannotList(t, tool)
	mounts, files := readFile(t, "/proc/self/mountinfo"), openFiles(t)
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			if err := tool.CanList(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if readFile(t, "/proc/self/mountinfo") != mounts {
		t.Error("mounts of this process changed")
	}
	if n := openFiles(t); n > files {
		t.Errorf("%d files are open, %d were before", n, files)
	}
	// Threads in other namespaces have ended, or are about to.
	for end := time.Now().Add(5 * time.Second); len(mountNamespaces(t)) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("threads are in the mount namespaces %v", mountNamespaces(t))
		}
	}
	f, err := tool.Features(t.Context())
	if err != nil || f.MemTrack {
		t.Errorf("Features = %+v, %v: another CRIU believes that memory is tracked", f, err)
	}
}

// TestCanListWithCache has a tmpfs on /run, where CRIU keeps its cache: that
// one must not change.
func TestCanListWithCache(t *testing.T) {
	tool := realTool(t)
	cannotList(t, tool)
	err := inOwnMounts(func() error {
		if _, err := tool.Features(t.Context()); err != nil {
			return err
		}
		before, err := os.ReadFile(cacheFile)
		if err != nil {
			return err
		}
		if err := tool.CanList(t.Context()); err != nil {
			return err
		}
		after, err := os.ReadFile(cacheFile)
		if string(after) != string(before) {
			err = errors.Join(err, errors.New("the cache of everybody changed"))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestListingIsForOneDump: the child is in another mount namespace.
func TestListingIsForOneDump(t *testing.T) {
	tool := realTool(t)
	cannotList(t, tool)
	c, err := tool.Start(t.Context(), ChildOptions{Listing: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	if _, err := c.Restore(t.Context(), RestoreOptions{ImagesDir: dir}, nil); err == nil {
		t.Error("Restore by a child that lists = nil, want an error")
	}
	for _, o := range []DumpOptions{
		{PID: os.Getpid(), ImagesDir: dir},
		{PID: os.Getpid(), ImagesDir: dir, PageSocket: new(0), TrackMem: true},
	} {
		if err := c.Dump(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), "page server") {
			t.Errorf("Dump of %+v = %v, want an error that says what is wrong", o, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestFlipTracking(t *testing.T) {
	cache := make([]byte, 64)
	if err := flipTracking(cache, Features{}); err != nil || cache[0x20] != 1 || slices.Max(cache[:0x20]) != 0 || slices.Max(cache[0x21:]) != 0 {
		t.Errorf("flipTracking = %v, %v", err, cache)
	}
	for name, test := range map[string]struct {
		cache []byte
		f     Features
	}{
		"soft-dirty": {make([]byte, 64), Features{MemTrack: true}},
		"set before": {cache, Features{}},
		"short":      {make([]byte, 0x20), Features{}},
	} {
		if err := flipTracking(test.cache, test.f); err == nil {
			t.Errorf("flipTracking, %s = nil, want an error", name)
		}
	}
}

// TestCannotListWithoutRights: the error says what was not possible.
func TestCannotListWithoutRights(t *testing.T) {
	err := Tool{Path: "/bin/true"}.CanList(t.Context())
	if err == nil || !strings.Contains(err.Error(), "listing pages") && !strings.Contains(err.Error(), "criu") {
		t.Errorf("CanList of something else than CRIU = %v, want an error", err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mountNamespaces are those of this process's threads.
func mountNamespaces(t *testing.T) (all []string) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		ns, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/mnt")
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(all, ns) {
			all = append(all, ns)
		}
	}
	return all
}
