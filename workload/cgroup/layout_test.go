package cgroup

import (
	"strings"
	"testing"
)

const (
	unifiedLine = "38 31 0:41 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	freezerLine = "37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer\n"
	cpuLine     = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
	pureLine    = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	boundLine   = "90 23 0:26 /a /mnt/with\\040space rw - cgroup2 cgroup2 rw\n"
	otherLine   = "23 0 8:1 / / rw - ext4 /dev/root rw\n"
)

func TestParseMounts(t *testing.T) {
	unified := Mount{Dir: "/sys/fs/cgroup/unified", Root: "/"}
	freezer := Mount{Dir: "/sys/fs/cgroup/freezer", Root: "/"}
	cpu := Mount{Dir: "/sys/fs/cgroup/cpu", Root: "/"}
	tests := map[string]struct {
		text string
		want Layout
	}{
		"v1":             {otherLine + cpuLine + freezerLine, Layout{Mode: V1, Freezer: freezer, CPU: cpu}},
		"v2":             {otherLine + pureLine, Layout{Mode: V2, Unified: Mount{Dir: "/sys/fs/cgroup", Root: "/"}}},
		"hybrid":         {cpuLine + freezerLine + unifiedLine, Layout{Mode: Hybrid, Unified: unified, Freezer: freezer, CPU: cpu}},
		"no v1 freezer":  {cpuLine + unifiedLine, Layout{Mode: Hybrid, Unified: unified, CPU: cpu}},
		"part of it":     {boundLine, Layout{Mode: V2, Unified: Mount{Dir: "/mnt/with space", Root: "/a"}}},
		"part and whole": {boundLine + pureLine + boundLine, Layout{Mode: V2, Unified: Mount{Dir: "/sys/fs/cgroup", Root: "/"}}},
	}
	for name, tt := range tests {
		got, err := parseMounts(strings.NewReader(tt.text))
		if err != nil || got != tt.want {
			t.Errorf("%s: parseMounts = %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
	for _, none := range []string{"", otherLine, cpuLine, "garbage\n - \n"} {
		if got, err := parseMounts(strings.NewReader(none)); err == nil {
			t.Errorf("parseMounts(%q) = %+v, want an error", none, got)
		}
	}
}

func TestCgroupName(t *testing.T) {
	const text = "9:name=systemd:/x\n6:cpu,freezer:/v1:with colon\n4:memory:/m\n0::/v2\n"
	if got, ok := cgroupName(text, ""); !ok || got != "/v2" {
		t.Errorf("cgroupName(v2) = %q, %v", got, ok)
	}
	if got, ok := cgroupName(text, "freezer"); !ok || got != "/v1:with colon" {
		t.Errorf("cgroupName(v1) = %q, %v", got, ok)
	}
	for _, controller := range []string{"", "freezer", "cpu"} {
		if got, ok := cgroupName("4:memory:/m\nx\n", controller); ok {
			t.Errorf("cgroupName = %q, want none", got)
		}
	}
}

func TestLocate(t *testing.T) {
	whole, part := Mount{Dir: "/cg", Root: "/"}, Mount{Dir: "/cg", Root: "/a"}
	tests := []struct {
		m    Mount
		name string
		want string
	}{
		{whole, "/", "/cg"}, {whole, "/a/b", "/cg/a/b"}, {whole, "/..", ""}, {whole, "/../x", ""}, {whole, "/..x", "/cg/..x"},
		{part, "/a", "/cg"}, {part, "/a/b", "/cg/b"}, {part, "/b", ""}, {part, "/ab", ""},
	}
	for _, tt := range tests {
		got, err := tt.m.locate(tt.name)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%+v.locate(%q) = %q, %v, want %q", tt.m, tt.name, got, err, tt.want)
		}
	}
}
