package network

import (
	"os"
	"path/filepath"
	"testing"

	"migrate"
)

// RemoveMade takes away what was made for its migration, however far that came, and
// nobody else's.
func TestRemoveMade(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	d := describe(t, workload(t, n.a, bridgeA, "10.77.0.50/24"), n.a)
	before := footprint(t, n.b)
	dir := filepath.Join(t.TempDir(), "netns")
	path := filepath.Join(dir, "web")
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { removeShared(t, path) })
	for _, stage := range []string{"nothing", "name", "bound", "filled", "somebody else's"} {
		target := n.target()
		switch stage {
		case "nothing":
		case "name":
			must(t, os.WriteFile(path, nil, 0o600))
		case "somebody else's":
			ns, err := CreateNamed(path, migrate.NewID())
			must(t, err)
			ns.Close()
		default:
			ns, err := CreateNamed(path, target.ID)
			must(t, err)
			if stage == "filled" {
				must(t, target.Fill(ns, d))
			}
			ns.Close()
		}
		crashed := &Target{ID: target.ID, Host: n.b}
		must(t, crashed.RemoveMade(path))
		must(t, crashed.RemoveMade(path))
		_, err := os.Lstat(path)
		if left, want := err == nil, stage == "somebody else's"; left != want {
			t.Errorf("%s: the name is left: %v", stage, left)
		}
		if got := footprint(t, n.b); got != before {
			t.Errorf("%s: left\n%s\nwas\n%s", stage, got, before)
		}
	}
	ns, err := Open(path)
	must(t, err)
	inode, err := ns.Inode()
	must(t, err)
	ns.Close()
	must(t, RemoveOwn(path, inode+1))
	if _, err := os.Lstat(path); err != nil {
		t.Error("another namespace's name was removed")
	}
	must(t, RemoveOwn(path, inode))
	must(t, RemoveOwn(path, inode))
	if _, err := os.Lstat(path); err == nil {
		t.Error("the name is left")
	}
}

func TestValidName(t *testing.T) {
	for path, want := range map[string]bool{
		"/run/netns/web": true, "/var/run/netns/cni-1f0c": true, "/run/netns/": false, "/run/netns/..": false,
		"/run/netns/a/b": false, "/proc/1/ns/net": false, "run/netns/web": false, "/run/netns/../web": false,
		"/run/netns/.hidden": false, "/etc/netns/web": false, "": false, "/run/netns/we b": false,
	} {
		if got := ValidName(path); got != want {
			t.Errorf("ValidName(%q) = %v", path, got)
		}
	}
}
