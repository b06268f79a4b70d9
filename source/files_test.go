package source

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/rootfs"
	"migrate/transport"
)

// someContainer has an overlay, a volume below a directory that is sent, a volume of its own, twice,
// a file, a directory of its own root, a socket and a device.
func someContainer() *migrate.Container {
	const dir, file = unix.S_IFDIR | 0o755, unix.S_IFREG | 0o644
	return &migrate.Container{
		RootFS: migrate.RootFS{Kind: migrate.RootOverlay, Path: "/b/rootfs", Lower: []string{"/l/2", "/l/1"}, Upper: "/c/upper", Work: "/c/work"},
		Mounts: []migrate.ContainerMount{
			{Path: "/db", Source: "/srv/db/main", Mode: dir, Decision: migrate.MountSame},
			{Path: "/data", Source: "/data", Mode: dir, ReadOnly: true, Decision: migrate.MountSame},
			{Path: "/data/rw", Source: "/data", Mode: dir, Decision: migrate.MountSame},
			{Path: "/etc/hosts", Source: "/c/hosts", Mode: file, Decision: migrate.MountSame},
			{Path: "/again", Source: "/b/rootfs/data", Mode: dir, Decision: migrate.MountSame},
			{Path: "/sock", Source: "/run/sock", Mode: unix.S_IFSOCK, Decision: migrate.MountSame},
			{Path: "/sys/x", Source: "/sys/x", Type: "sysfs", Mode: dir, Decision: migrate.MountSame},
			{Path: "/lost", Mode: dir, Decision: migrate.MountSame},
			{Path: "/dev/null", Source: "/dev/null", Given: true},
		},
	}
}

func TestTreesOf(t *testing.T) {
	c := someContainer()
	var got []string
	for _, x := range treesOf(c, []string{"/srv/db", "/srv/db/main/x", "/srv/d"}) {
		s := string(x.Role) + " " + x.Path
		if x.fixed {
			s += " fixed"
		}
		if x.file {
			s += " file"
		}
		got = append(got, s)
	}
	want := []string{"sync /srv/d", "sync /srv/db", "root /c/upper", "layer /l/2 fixed", "layer /l/1 fixed", "mount /data", "mount /c/hosts file"}
	if !slices.Equal(got, want) {
		t.Errorf("trees %q, want %q", got, want)
	}
	if c.Mounts[0].Decision != migrate.MountShip || c.Mounts[1].Decision != migrate.MountSame {
		t.Errorf("mounts: %+v", c.Mounts[:2])
	}
	if got := treesOf(nil, nil); len(got) != 0 {
		t.Errorf("a process has trees %+v", got)
	}
	plain := treesOf(&migrate.Container{RootFS: migrate.RootFS{Kind: migrate.RootPlain, Path: "/r"}}, nil)
	if len(plain) != 1 || plain[0].Path != "/r" || plain[0].kind != rootfs.Plain {
		t.Errorf("of a plain root: %+v", plain)
	}
	user := treesOf(&migrate.Container{RootFS: migrate.RootFS{Kind: migrate.RootOverlay, Upper: "/u", Options: []string{"userxattr"}}}, nil)
	if user[0].kind != rootfs.UserUpper {
		t.Errorf("kind %d of an overlay with userxattr", user[0].kind)
	}
}

func TestDecide(t *testing.T) {
	for _, tt := range []struct {
		name      string
		tree      tree
		seen      transport.Seen
		shipImage bool
		want      migrate.TreeDecision
		code      string
	}{
		{"shared root", tree{Tree: migrate.Tree{Role: migrate.TreeRoot}}, transport.Seen{There: true, Shared: true}, false, migrate.TreeShared, ""},
		{"root", tree{Tree: migrate.Tree{Role: migrate.TreeRoot}}, transport.Seen{There: true}, false, migrate.TreeShip, ""},
		{"asked for", tree{Tree: migrate.Tree{Role: migrate.TreeSync}}, transport.Seen{There: true}, false, migrate.TreeShip, ""},
		{"layer", tree{Tree: migrate.Tree{Role: migrate.TreeLayer}, fixed: true}, transport.Seen{There: true}, true, migrate.TreeSame, ""},
		{"no layer", tree{Tree: migrate.Tree{Role: migrate.TreeLayer}, fixed: true}, transport.Seen{}, false, migrate.TreeBlock, codeLayer},
		{"layer sent", tree{Tree: migrate.Tree{Role: migrate.TreeLayer}, fixed: true}, transport.Seen{}, true, migrate.TreeShip, ""},
		{"file", tree{Tree: migrate.Tree{Role: migrate.TreeMount}, file: true}, transport.Seen{There: true}, false, migrate.TreeSame, ""},
		{"read-only", tree{Tree: migrate.Tree{Role: migrate.TreeMount}, fixed: true}, transport.Seen{There: true}, false, migrate.TreeSame, ""},
		{"writable", tree{Tree: migrate.Tree{Role: migrate.TreeMount}}, transport.Seen{There: true}, false, migrate.TreeBlock, codeWritable},
		{"missing", tree{Tree: migrate.Tree{Role: migrate.TreeMount}}, transport.Seen{}, true, migrate.TreeBlock, ""},
	} {
		code := ""
		if f := tt.tree.decide(tt.seen, tt.shipImage); f != nil {
			code = f.Code
		}
		if tt.tree.Decision != tt.want || code != tt.code {
			t.Errorf("%s: %s with %q, want %s with %q", tt.name, tt.tree.Decision, code, tt.want, tt.code)
		}
	}
}

func TestHostPath(t *testing.T) {
	c := someContainer()
	for p, want := range map[string]string{
		"": "", "/x": "/b/rootfs/x", "/db/x": "/srv/db/main/x", "/dbx": "/b/rootfs/dbx", "/data/a": "/data/a", "/data/rw/a": "/data/a",
		"/etc/hosts": "/c/hosts", "/again/x": "/b/rootfs/data/x", "/lost/x": "",
	} {
		if got := hostPath(c, p); got != want {
			t.Errorf("hostPath(%q) = %q, want %q", p, got, want)
		}
	}
	if got := hostPath(nil, "/x"); got != "/x" {
		t.Errorf("of a process: %q", got)
	}
}

func TestFilesSettled(t *testing.T) {
	for _, tt := range []struct {
		last, before time.Duration
		want         bool
	}{
		{0, 0, true}, {100, 0, true}, {101, 0, false}, {900, 1000, true}, {700, 1000, false}, {50, 1000, true},
	} {
		if got := filesSettled(tt.last, tt.before, 100); got != tt.want {
			t.Errorf("filesSettled(%d, %d) = %v", tt.last, tt.before, got)
		}
	}
}
