package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const (
	cpuacctLine = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct,xattr\n"
	systemdLine = "33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n"
)

func TestParseHierarchies(t *testing.T) {
	list, err := parseHierarchies(strings.NewReader(otherLine + boundLine + cpuacctLine + systemdLine + freezerLine + pureLine + "garbage\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Hierarchy{
		{Mount: Mount{Dir: "/sys/fs/cgroup", Root: "/"}, Version: 2},
		{Mount: Mount{Dir: "/sys/fs/cgroup/cpu,cpuacct", Root: "/"}, Version: 1, Controllers: []string{"cpu", "cpuacct"}},
		{Mount: Mount{Dir: "/sys/fs/cgroup/freezer", Root: "/"}, Version: 1, Controllers: []string{"freezer"}},
		{Mount: Mount{Dir: "/sys/fs/cgroup/systemd", Root: "/"}, Version: 1, Controllers: []string{"name=systemd"}},
	}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("got  %+v\nwant %+v", list, want)
	}
}

// TestNamed looks for cgroups in directories that stand for hierarchies.
func TestNamed(t *testing.T) {
	top := t.TempDir()
	h := func(name string, version int, controllers ...string) Hierarchy {
		return Hierarchy{Mount: Mount{Dir: filepath.Join(top, name), Root: "/"}, Version: version, Controllers: controllers}
	}
	all := []Hierarchy{h("unified", 2), h("cpu", 1, "cpu", "cpuacct"), h("memory", 1, "memory"), h("pids", 1, "pids")}
	for _, dir := range []string{"unified/web", "cpu/web-cpu", "memory/web"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, dir, "cgroup.procs"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := Named(all, map[string]string{"": "/web", "cpuacct": "/web-cpu"})
	want := []string{filepath.Join(top, "unified/web"), filepath.Join(top, "cpu/web-cpu"), filepath.Join(top, "memory/web")}
	if !slices.Equal(got, want) { // that of pids is not there
		t.Errorf("Named = %q, want %q", got, want)
	}
	if got := Named(all, map[string]string{"memory": "/web"}); !slices.Equal(got, want[2:]) {
		t.Errorf("Named = %q, want %q", got, want[2:])
	}
	if got := Named(all, map[string]string{"": "/../../etc"}); len(got) != 0 {
		t.Errorf("Named out of the hierarchies = %q", got)
	}
}

// TestOf compares with what the kernel says.
func TestOf(t *testing.T) {
	names, err := Of(os.Getpid())
	if err != nil || len(names) == 0 {
		t.Fatalf("Of = %v, %v", names, err)
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for controller, name := range names {
		if !strings.Contains(string(b), controller) || !strings.Contains(string(b), ":"+name+"\n") {
			t.Errorf("%q: %q is not in %s", controller, name, b)
		}
	}
	if names, err := Of(0); err == nil {
		t.Errorf("Of(0) = %v, want an error", names)
	}
}

func TestFreezerNone(t *testing.T) {
	if g, err := Freezer([]string{t.TempDir()}); err == nil {
		t.Errorf("Freezer = %v, want an error", g)
	}
}
