package vm

import (
	"strings"
	"testing"
)

func TestDefinition(t *testing.T) {
	d, err := Defined()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.pick([]string{"B", "A", "C"}); err != nil {
		t.Error(err)
	}
	if _, err := d.pick([]string{"Z"}); err == nil || !strings.Contains(err.Error(), `"Z"`) {
		t.Errorf("a host that is not there: %v", err)
	}
}

func TestBadDefinitions(t *testing.T) {
	good := `{"suite":"s","packages":["p"],"kernels":["k"],"cpu":"max","memory-mib":512,"network":"10.0.0.254/24",
		"hosts":[{"name":"A","number":1,"address":"10.0.0.1/24","kernel":"k"}]}`
	if _, err := parseDefinition([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"number":1`, `"number":0`, "host A has the number 0"},
		{`"kernel":"k"`, `"kernel":"other"`, `host A has the kernel of "other"`},
		{"10.0.0.1/24", "10.0.0.1", `the address "10.0.0.1"`},
		{"10.0.0.254/24", "net", `network "net"`},
		{"512", "64", "64 MiB of memory"},
		{`"suite"`, `"sweet"`, "unknown field"},
	} {
		_, err := parseDefinition([]byte(strings.Replace(good, c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.new, err, c.want)
		}
	}
}

func TestKernelNames(t *testing.T) {
	im := Image{Kernels: []Kernel{{Suite: "bookworm", Version: "6.1.0-50-cloud-amd64"}, {Suite: "trixie", Version: "6.12.107+deb13-cloud-amd64"}}}
	for _, name := range []string{"6.12", "trixie", "6.12.107+deb13-cloud-amd64"} {
		if k, err := im.Kernel(name); err != nil || k.Label() != "6.12" {
			t.Errorf("kernel %s: %+v, %v", name, k, err)
		}
	}
	if _, err := im.Kernel("5.10"); err == nil || !strings.Contains(err.Error(), "6.1, 6.12") {
		t.Errorf("a kernel that is not there: %v", err)
	}
}

func TestPanicked(t *testing.T) {
	for console, want := range map[string]bool{
		"":                        false,
		"guest: ready after 4s\n": false,
		"[ 1.2] Kernel panic - not syncing: Fatal exception in interrupt":                         true,
		"[ 1.2] BUG: kernel NULL pointer dereference":                                             true,
		"guest: no /dev/vda\n[ 2.4] Kernel panic - not syncing: Attempted to kill init! exitcode": false,
	} {
		if got := panicked(console); got != want {
			t.Errorf("panicked(%q) = %t", console, got)
		}
	}
}
