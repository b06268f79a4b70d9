package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"migrate"
)

// spec is a configuration as runtimes write it by themselves, shortened.
func spec(t *testing.T, change func(*specs.Spec)) specs.Spec {
	t.Helper()
	var s specs.Spec
	const text = `{"process":{"terminal":true,"args":["sh"]},"root":{"path":"rootfs"},
		"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
		"linux":{"cgroupsPath":"/web","namespaces":[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"mount"}],"maskedPaths":["/proc/kcore"]}}`
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&s)
	}
	return s
}

func TestDescribe(t *testing.T) {
	r := Runtime{Name: "runc", Root: "/run/other", Version: "1.3.6"}
	s := spec(t, func(s *specs.Spec) {
		s.Annotations = map[string]string{"a": "b"}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup2"})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 1}}
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x"}}, Poststart: []specs.Hook{{Path: "/y"}}}
		s.Linux.Namespaces[1].Path = "/run/netns/web"
	})
	got := describe(r, State{ID: "web", Bundle: "/srv/web"}, s)
	want := migrate.Container{
		ContainerRef: migrate.ContainerRef{Runtime: "runc", Root: "/run/other", ID: "web"}, RuntimeVersion: "1.3.6", Bundle: "/srv/web",
		Terminal: true, CgroupsPath: "/web", UserNamespace: true, CgroupMount: true,
		Hooks: []string{"createRuntime", "poststart"}, Annotations: map[string]string{"a": "b"},
		Namespaces: []migrate.ContainerNamespace{{Type: "pid"}, {Type: "network", Path: "/run/netns/web"}, {Type: "ipc"}, {Type: "mount"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("describe:\n got  %+v\n want %+v", got, want)
	}
	if path, own := got.NamespacePath("network"); own || path != "/run/netns/web" {
		t.Errorf("network namespace: %q, %v", path, own)
	}
	if path, own := got.NamespacePath("user"); own || path != "" {
		t.Errorf("user namespace: %q, %v", path, own)
	}
}

func codes(list []migrate.Finding) []string {
	var out []string
	for _, f := range list {
		if f.What == "" || f.Advice == "" {
			panic("a finding without words: " + f.Code)
		}
		out = append(out, f.Code)
	}
	return out
}

func TestFindings(t *testing.T) {
	for name, tt := range map[string]struct {
		status string
		change func(*specs.Spec)
		want   []string
	}{
		"fine":           {"running", nil, nil},
		"paused":         {"paused", nil, []string{CodePaused}},
		"systemd":        {"running", func(s *specs.Spec) { s.Linux.CgroupsPath = "system.slice:crun:web" }, []string{CodeSystemd}},
		"colons in path": {"running", func(s *specs.Spec) { s.Linux.CgroupsPath = "/a:b:c" }, nil},
		"host's PIDs":    {"running", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, []string{CodeSharing}},
		"pod's PIDs":     {"running", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/7/ns/pid" }, []string{CodeSharing}},
		"host's network": {"running", func(s *specs.Spec) { s.Linux.Namespaces = slices.Delete(s.Linux.Namespaces, 1, 2) }, nil},
	} {
		s := State{ID: "web", Status: tt.status}
		if got := codes(findings(s, describe(Runtime{Name: "runc"}, s, spec(t, tt.change)))); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func table(t *testing.T, text string) []*mountinfo.Info {
	t.Helper()
	list, err := mountinfo.GetMountsFromReader(strings.NewReader(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

const hostTable = `20 1 8:1 / / rw - ext4 /dev/sda rw
21 20 0:5 / /dev rw - devtmpfs devtmpfs rw
22 20 0:20 / /proc rw - proc proc rw
23 20 0:21 / /sys rw - sysfs sysfs rw
24 23 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
25 20 8:2 / /srv rw - ext4 /dev/sdb rw
26 20 0:30 / /run/bundles/o/rootfs rw - overlay overlay rw,lowerdir=/l2:/l1,upperdir=/u,workdir=/w,xino=off
`

func TestMounts(t *testing.T) {
	container := table(t, `50 40 8:1 /var/c/rootfs / rw - ext4 /dev/sda rw
51 50 0:50 / /proc rw - proc proc rw
52 50 0:51 / /dev rw - tmpfs tmpfs rw
53 52 0:5 /null /dev/null rw - devtmpfs devtmpfs rw
54 50 0:21 / /sys ro - sysfs sysfs rw
55 54 0:22 /web /sys/fs/cgroup ro - cgroup2 cgroup2 rw
56 50 8:2 /data/web /data rw - ext4 /dev/sdb rw
57 50 8:1 /etc/hosts /etc/hosts ro - ext4 /dev/sda rw
58 51 0:5 /null /proc/kcore rw - devtmpfs devtmpfs rw
`)
	got := map[string]migrate.ContainerMount{}
	for _, m := range mounts(container, table(t, hostTable), []string{"/proc/kcore"}) {
		got[m.Path] = m
	}
	for path, want := range map[string]migrate.ContainerMount{
		"/dev/null":      {Source: "/dev/null", Given: true},
		"/sys/fs/cgroup": {Source: "/sys/fs/cgroup/web", Given: true, ReadOnly: true},
		"/data":          {Source: "/srv/data/web"},
		"/etc/hosts":     {Source: "/etc/hosts", ReadOnly: true},
		"/proc/kcore":    {Source: "/dev/null", Given: true},
	} {
		m, ok := got[path]
		if !ok || m.Source != want.Source || m.Given != want.Given || m.ReadOnly != want.ReadOnly || m.Key != path || m.Decision != migrate.MountSame {
			t.Errorf("%s: %+v, want %+v", path, m, want)
		}
		delete(got, path)
	}
	if len(got) != 0 { // of the others a restore makes new ones
		t.Errorf("also %+v", got)
	}
}

func TestRootFS(t *testing.T) {
	host := table(t, hostTable)
	for name, tt := range map[string]struct {
		line, dir string
		want      migrate.RootFS
		refused   bool
	}{
		"plain": {"50 40 8:1 /var/c / rw - ext4 /dev/sda rw", "/var/c", migrate.RootFS{Kind: migrate.RootPlain, Path: "/var/c"}, false},
		"overlay": {"50 40 0:30 / / rw - overlay overlay rw,lowerdir=/l2:/l1,upperdir=/u,workdir=/w,xino=off", "/run/bundles/o/rootfs", migrate.RootFS{
			Kind: migrate.RootOverlay, Path: "/run/bundles/o/rootfs", Lower: []string{"/l2", "/l1"}, Upper: "/u", Work: "/w", Options: []string{"xino=off"},
		}, false},
		"relative overlay":    {"50 40 0:30 / / rw - overlay overlay rw,lowerdir=l/A:l/B,upperdir=/u,workdir=/w", "/run/bundles/o/rootfs", migrate.RootFS{}, true},
		"overlay to read":     {"50 40 0:30 / / rw - overlay overlay ro,lowerdir=/l2:/l1", "/run/bundles/o/rootfs", migrate.RootFS{}, true},
		"overlay of another":  {"50 40 0:31 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w", "/run/bundles/o/rootfs", migrate.RootFS{}, true},
		"volume of its own":   {"50 40 253:7 / / rw - xfs /dev/mapper/docker-253:0-7 rw", "/run/x", migrate.RootFS{}, true},
		"file system of fuse": {"50 40 0:77 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw", "/run/x", migrate.RootFS{}, true},
		"no root at all":      {"51 50 0:50 / /proc rw - proc proc rw", "/run/x", migrate.RootFS{}, true},
	} {
		got, f := rootFS(tt.dir, table(t, tt.line+"\n"), host)
		switch {
		case tt.refused && (f == nil || f.Code != CodeRootFS || f.What == "" || f.Advice == ""):
			t.Errorf("%s: finding %+v", name, f)
		case !tt.refused && (f != nil || !reflect.DeepEqual(got, tt.want)):
			t.Errorf("%s: %+v, %+v, want %+v", name, got, f, tt.want)
		}
	}
}

// TestOverlayData demands that what is mounted again is what was shown.
func TestOverlayData(t *testing.T) {
	r := migrate.RootFS{
		Path: "/m", Lower: []string{"/l:2", `/l\1`, "/l,0"}, Upper: "/u:p,per", Work: "/w", Options: []string{"xino=off", "seclabel", "inode64"},
	}
	data, err := overlayData(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := `lowerdir=/l\:2:/l\\1:/l\,0,upperdir=/u\:p\,per,workdir=/w,xino=off`; data != want {
		t.Errorf("overlayData = %s, want %s", data, want)
	}
	if got := splitLower(`/l\:2:/l\\1:/l`); !slices.Equal(got, []string{"/l:2", `/l\1`, "/l"}) {
		t.Errorf("splitLower = %q", got)
	}
	r.Lower = slices.Repeat([]string{"/a/rather/long/path/of/a/layer"}, 200)
	if _, err := overlayData(r); err == nil {
		t.Error("more lower directories than fit into a page: no error")
	}
}

func container(t *testing.T) migrate.Container {
	t.Helper()
	dir := t.TempDir()
	return migrate.Container{
		ContainerRef: migrate.ContainerRef{Runtime: "runc", ID: "web", Root: filepath.Join(dir, "state")},
		Bundle:       filepath.Join(dir, "bundle"), RootFS: migrate.RootFS{Kind: migrate.RootPlain, Path: dir},
	}
}

// TestValid has a peer that lies.
func TestValid(t *testing.T) {
	if err := Valid(container(t)); err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(*migrate.Container){
		"runtime":  func(c *migrate.Container) { c.Runtime = "sh" },
		"id":       func(c *migrate.Container) { c.ID = "../web" },
		"bundle":   func(c *migrate.Container) { c.Bundle = "bundle" },
		"dots":     func(c *migrate.Container) { c.Bundle = "/srv/../etc" },
		"state":    func(c *migrate.Container) { c.Root = "state" },
		"no root":  func(c *migrate.Container) { c.RootFS.Path = "" },
		"lower":    func(c *migrate.Container) { c.RootFS.Lower = []string{"l"} },
		"upper":    func(c *migrate.Container) { c.RootFS.Upper = "/u/" },
		"a mount":  func(c *migrate.Container) { c.Mounts = []migrate.ContainerMount{{Path: "x"}} },
		"overlay":  func(c *migrate.Container) { c.RootFS.Options = []string{"upperdir=/etc"} },
		"options":  func(c *migrate.Container) { c.RootFS.Options = []string{"index=off,workdir=/etc"} },
		"no names": func(c *migrate.Container) { c.ID = "" },
	} {
		c := container(t)
		lie(&c)
		if err := Valid(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestBundleFindings(t *testing.T) {
	c := container(t)
	config := []byte("{}")
	sum := sha256.Sum256(config)
	c.ConfigDigest = hex.EncodeToString(sum[:])
	if got := bundleFindings(c); len(got) != 0 { // it comes with the container
		t.Errorf("without a bundle: %+v", got)
	}
	path := filepath.Join(c.Bundle, "config.json")
	if err := errors.Join(os.Mkdir(c.Bundle, 0o755), os.WriteFile(path, config, 0o644)); err != nil {
		t.Fatal(err)
	}
	if got := bundleFindings(c); len(got) != 0 {
		t.Errorf("with the same: %+v", got)
	}
	if err := os.WriteFile(path, []byte("{ }"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := codes(bundleFindings(c)); !slices.Equal(got, []string{CodeBundle}) {
		t.Errorf("with another: %q", got)
	}
}

func TestMountFinding(t *testing.T) {
	dir := t.TempDir()
	isDir := migrate.ContainerMount{Path: "/data", Source: dir, Mode: unix.S_IFDIR | 0o755, Decision: migrate.MountSame}
	for name, tt := range map[string]struct {
		change func(*migrate.ContainerMount)
		bad    bool
	}{
		"same":         {func(*migrate.ContainerMount) {}, false},
		"missing":      {func(m *migrate.ContainerMount) { m.Source = dir + "/none" }, true},
		"another kind": {func(m *migrate.ContainerMount) { m.Mode = unix.S_IFREG }, true},
		"not known":    {func(m *migrate.ContainerMount) { m.Source = "" }, true},
		"given":        {func(m *migrate.ContainerMount) { m.Source, m.Given = "", true }, false},
		"shipped":      {func(m *migrate.ContainerMount) { m.Source, m.Decision = dir+"/none", migrate.MountShip }, false},
		"device": {func(m *migrate.ContainerMount) {
			m.Source, m.Mode, m.Rdev = "/dev/null", unix.S_IFCHR, unix.Mkdev(1, 3)
		}, false},
		"other device": {func(m *migrate.ContainerMount) {
			m.Source, m.Mode, m.Rdev = "/dev/null", unix.S_IFCHR, unix.Mkdev(1, 5)
		}, true},
	} {
		m := isDir
		tt.change(&m)
		if f := mountFinding(m); (f != nil) != tt.bad || f != nil && (f.Code != CodeMount || f.What == "" || f.Advice == "") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
