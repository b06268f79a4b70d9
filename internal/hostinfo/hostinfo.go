// Package hostinfo describes the host that a process runs on, as the two sides
// of a migration tell it to each other in preflight.
package hostinfo

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/clock"
	"migrate/criu"
	"migrate/predump"
	"migrate/workload/cgroup"
)

// Describe gathers the facts. criuErr is why there is no usable CRIU, if so;
// store is the directory where received pages are kept, "" on a host that
// receives nothing.
func Describe(ctx context.Context, tool criu.Tool, criuErr error, store string) (migrate.Host, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return migrate.Host{}, fmt.Errorf("uname: %w", err)
	}
	now := clock.Now()
	h := migrate.Host{
		Name:             unix.ByteSliceToString(u.Nodename[:]),
		Version:          Version(),
		Kernel:           unix.ByteSliceToString(u.Release[:]),
		Arch:             runtime.GOARCH,
		TimeNamespaces:   clock.Supported(),
		MonotonicNow:     int64(now.Monotonic),
		BoottimeNow:      int64(now.Boottime),
		UffdWP:           predump.Probe().UffdWP == nil,
		RestoreSupported: criuErr == nil && store != "",
	}
	if layout, err := cgroup.Detect(); err == nil {
		h.Cgroup = layout.Mode
	}
	if criuErr == nil {
		h.CRIU, h.CRIUNumber = tool.Version.String(), int(tool.Version)
		features, err := tool.Features(ctx)
		if err != nil {
			return migrate.Host{}, err
		}
		h.SoftDirty, h.LazyPages = features.MemTrack, features.LazyPages
	}
	var err error
	if h.MemoryAvailable, err = MemoryAvailable(); err != nil {
		return migrate.Host{}, err
	}
	if store != "" {
		h.StoreAvailable, err = Free(store)
	}
	return h, err
}

// Version returns the version of this program: the module's, or the commit it
// was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

// MemoryAvailable returns the kernel's own estimate of memory that new
// programs can have, in bytes (proc(5), MemAvailable).
func MemoryAvailable() (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		rest, ok := strings.CutPrefix(s.Text(), "MemAvailable:")
		if !ok {
			continue
		}
		var kib uint64
		_, err := fmt.Sscanf(rest, "%d kB", &kib)
		return kib << 10, err
	}
	return 0, fmt.Errorf("/proc/meminfo has no MemAvailable")
}

// Free returns the bytes free in the file system that holds dir.
func Free(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}
