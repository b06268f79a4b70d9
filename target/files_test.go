package target

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"migrate"
	"migrate/transport"
)

// offered is an offer of a container with an overlay and one directory that is sent.
func offered() transport.Offer {
	return transport.Offer{
		ID: "0123456789abcdef",
		Workload: migrate.Workload{Container: &migrate.Container{
			Bundle: "/b", RootFS: migrate.RootFS{Kind: migrate.RootOverlay, Path: "/b/rootfs", Lower: []string{"/l"}, Upper: "/u", Work: "/w"},
		}},
		Options: migrate.Options{Sync: []string{"/srv"}},
	}
}

// TestForeignTrees: a peer can name no path that is not the workload's.
func TestForeignTrees(t *testing.T) {
	a := &Agent{cfg: Config{StateDir: "/var/lib/migrate", RunDir: "/run/migrate", Store: "/run/migrate/store"}}
	for _, tt := range []struct {
		name string
		tree transport.Tree
		ok   bool
	}{
		{"upper", transport.Tree{Path: "/u", Role: migrate.TreeRoot, Kind: 2}, true},
		{"asked for", transport.Tree{Path: "/srv", Role: migrate.TreeSync, Kind: 1}, true},
		{"equal layer", transport.Tree{Path: "/l", Role: migrate.TreeLayer, Kind: 2, Digest: "x"}, true},
		{"equal mount", transport.Tree{Path: "/m", Role: migrate.TreeMount, Kind: 1, Digest: "x"}, true},
		{"layer not asked for", transport.Tree{Path: "/l", Role: migrate.TreeLayer, Kind: 2}, false},
		{"another root", transport.Tree{Path: "/etc", Role: migrate.TreeRoot, Kind: 2}, false},
		{"below what was asked for", transport.Tree{Path: "/srv/x", Role: migrate.TreeSync, Kind: 1}, false},
		{"mount that is sent", transport.Tree{Path: "/m", Role: migrate.TreeMount, Kind: 1}, false},
		{"no role", transport.Tree{Path: "/u", Kind: 1}, false},
		{"no kind", transport.Tree{Path: "/u", Role: migrate.TreeRoot}, false},
		{"relative", transport.Tree{Path: "u", Role: migrate.TreeMount, Kind: 1, Digest: "x"}, false},
		{"not clean", transport.Tree{Path: "/u/../etc", Role: migrate.TreeMount, Kind: 1, Digest: "x"}, false},
		{"negative", transport.Tree{Path: "/u", Role: migrate.TreeRoot, Kind: 2, Bytes: -1}, false},
	} {
		o := offered()
		o.Trees = []transport.Tree{tt.tree}
		if err := a.validTrees(o); (err == nil) != tt.ok || err != nil && !errors.Is(err, transport.ErrProtocol) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for _, dir := range []string{"/var/lib", "/run/migrate/store/x"} { // the agent's own, or what holds it
		o := offered()
		o.Options.Sync = []string{dir}
		o.Trees = []transport.Tree{{Path: dir, Role: migrate.TreeSync, Kind: 1}}
		if err := a.validTrees(o); err == nil {
			t.Errorf("%s: no error", dir)
		}
	}
}

func TestComes(t *testing.T) {
	o := offered()
	o.Trees = []transport.Tree{
		{Path: "/u", Role: migrate.TreeRoot}, {Path: "/srv", Role: migrate.TreeSync}, {Path: "/l", Role: migrate.TreeLayer, Digest: "x"},
	}
	for path, want := range map[string]bool{"/b/rootfs/bin/sh": true, "/srv": true, "/srv/x": true, "/srvx": false, "/l/x": false, "/u/x": true} {
		if got := comes(o, path); got != want {
			t.Errorf("comes(%s) = %v", path, got)
		}
	}
}

// TestOccupied: what is at a tree's place is replaced only if the container has been
// here before, or the operator said so.
func TestOccupied(t *testing.T) {
	dir := t.TempDir()
	full, empty, bundle := dir+"/full", dir+"/empty", dir+"/bundle"
	for _, d := range []string{full + "/x", empty, bundle} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o := offered()
	o.Workload.Container.Bundle = bundle
	for _, tt := range []struct {
		path string
		role migrate.TreeRole
		bad  bool
	}{
		{full, migrate.TreeRoot, true}, {empty, migrate.TreeRoot, false}, {dir + "/none", migrate.TreeRoot, false},
		{full, migrate.TreeLayer, true}, {full, migrate.TreeSync, false}, {"/proc", migrate.TreeSync, true},
	} {
		if f := occupied(o, transport.Tree{Path: tt.path, Role: tt.role}); (f != nil) != tt.bad {
			t.Errorf("%s %s: %+v", tt.role, tt.path, f)
		}
	}
	if err := os.WriteFile(bundle+"/config.json", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f := occupied(o, transport.Tree{Path: full, Role: migrate.TreeRoot}); f != nil {
		t.Errorf("after an earlier stay: %+v", f)
	}
}

func TestRoomFor(t *testing.T) {
	need := map[uint64]int64{}
	path := filepath.Join(t.TempDir(), "a", "b")
	if f, err := roomFor(transport.Tree{Path: path, Bytes: 1}, need); f != nil || err != nil {
		t.Errorf("one byte: %+v, %v", f, err)
	}
	if f, err := roomFor(transport.Tree{Path: path, Bytes: 1 << 60}, need); err != nil || f == nil || f.Code != codeRoom {
		t.Errorf("too much: %+v, %v", f, err)
	}
}

// TestRemoveHollow leaves what somebody has put there.
func TestRemoveHollow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"proc", "etc/x", "kept"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"etc/hosts": "", "kept/file": "something"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	removeHollow(dir)
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 || names[0].Name() != "kept" {
		t.Errorf("left: %v, %v, want the directory with a file", names, err)
	}
	if err := os.Remove(dir + "/kept/file"); err != nil {
		t.Fatal(err)
	}
	removeHollow(dir)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty one: %v", err)
	}
}
