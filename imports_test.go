package migrate_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// pkg is what go list says of one package.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// listed returns every package of the module by its path below it.
func listed(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, "migrate"), "/")
		if top(name) != "build" { // what is there is nobody's source
			pkgs[name] = p
		}
	}
}

var leaves = []string{"criu", "transport", "journal", "clock", "predump", "rootfs", "network", "workload"}

// mayUse lists the packages that may import a third-party module, by the first
// part of their path.
var mayUse = map[string]string{
	"github.com/checkpoint-restore/go-criu": "criu",
	"github.com/quic-go/quic-go":            "transport",
	"github.com/vishvananda":                "network",
	"github.com/google/nftables":            "network",
	"github.com/mdlayher/netlink":           "network",
}

func TestLeavesStandAlone(t *testing.T) {
	for name, p := range listed(t) {
		if !slices.Contains(leaves, top(name)) {
			continue
		}
		for _, dep := range p.Deps {
			if d := ours(dep); isLeafOrSide(d) && d != top(name) {
				t.Errorf("%s depends on %s: a leaf declares the small interface that it needs", name, dep)
			}
		}
	}
}

func TestSidesAreApart(t *testing.T) {
	for name, p := range listed(t) {
		for _, dep := range p.Deps {
			if s := top(name) + " " + ours(dep); s == "source target" || s == "target source" {
				t.Errorf("%s depends on %s: what both need is a message or a noun", name, dep)
			}
			if ours(dep) == "supervisor" && !slices.Contains([]string{"supervisor", "source", "target", "cmd", "internal"}, top(name)) {
				t.Errorf("%s depends on %s", name, dep)
			}
		}
	}
}

func TestNounsNeedOnlyTheStandardLibrary(t *testing.T) {
	for _, dep := range listed(t)[""].Deps {
		if first, _, _ := strings.Cut(dep, "/"); strings.Contains(first, ".") || first == "migrate" {
			t.Errorf("the root package depends on %s", dep)
		}
	}
}

func TestThirdPartyIsConfined(t *testing.T) {
	for name, p := range listed(t) {
		for _, imp := range p.Imports {
			for module, only := range mayUse {
				if strings.HasPrefix(imp, module) && top(name) != only {
					t.Errorf("%s imports %s, which only %s may", name, imp, only)
				}
			}
		}
	}
}

func TestPackageNames(t *testing.T) {
	for name := range listed(t) {
		if slices.Contains([]string{"utils", "util", "common", "helpers", "helper", "pkg", "types", "misc"}, path.Base(name)) {
			t.Errorf("package %s: name it after what it does", name)
		}
	}
}

// top returns the first part of a package's path in the module.
func top(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

// ours returns the first part of the path of a package of this module, or "".
func ours(dep string) string {
	rest, ok := strings.CutPrefix(dep, "migrate/")
	if !ok {
		return ""
	}
	return top(rest)
}

func isLeafOrSide(name string) bool {
	return slices.Contains(leaves, name) || slices.Contains([]string{"source", "target", "supervisor", "cmd"}, name)
}
