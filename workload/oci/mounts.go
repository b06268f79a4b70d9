package oci

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"migrate"
)

// madeByKernel are file systems of which a restore makes a new one, as long as
// all of it is mounted.
var madeByKernel = []string{"proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2", "securityfs", "tracefs", "debugfs", "binfmt_misc"}

// mounts returns what a container has mounted of the host, by the mount tables
// of both. Where a mount's file system is one that the host has mounted too, a
// dump can only name it.
func mounts(container, host []*mountinfo.Info, masked []string) []migrate.ContainerMount {
	var list []migrate.ContainerMount
	for _, m := range container {
		shown := slices.ContainsFunc(host, func(h *mountinfo.Info) bool { return sameFS(h, m) })
		whole := m.Root == "/" && slices.Contains(madeByKernel, m.FSType)
		if m.Mountpoint == "/" || !shown || whole {
			continue
		}
		list = append(list, migrate.ContainerMount{
			Path: m.Mountpoint, Key: m.Mountpoint, Type: m.FSType, Source: sourceOf(m, host), Decision: migrate.MountSame,
			ReadOnly: slices.Contains(strings.Split(m.Options, ","), "ro"),
			Given:    slices.Contains([]string{"cgroup", "cgroup2", "devtmpfs"}, m.FSType) || slices.Contains(masked, m.Mountpoint),
		})
	}
	return list
}

func sameFS(a, b *mountinfo.Info) bool { return a.Major == b.Major && a.Minor == b.Minor }

// sourceOf returns the path on the host of what is mounted in a container, or "".
func sourceOf(m *mountinfo.Info, host []*mountinfo.Info) string {
	found, longest := "", -1
	for _, h := range host {
		rest, ok := below(m.Root, h.Root)
		if !ok || !sameFS(h, m) || len(h.Root) < longest {
			continue
		}
		found, longest = path.Join(h.Mountpoint, rest), len(h.Root)
	}
	return found
}

// below returns p relative to dir, if it is in it.
func below(p, dir string) (string, bool) {
	if dir == "/" {
		return strings.TrimPrefix(p, "/"), true
	}
	rest, ok := strings.CutPrefix(p, dir)
	return strings.TrimPrefix(rest, "/"), ok && (rest == "" || rest[0] == '/')
}

// note adds what the source of a mount is.
func note(m *migrate.ContainerMount) {
	var st unix.Stat_t
	if m.Source == "" || unix.Stat(m.Source, &st) != nil {
		return
	}
	m.Mode = st.Mode
	if k := st.Mode & unix.S_IFMT; k == unix.S_IFCHR || k == unix.S_IFBLK {
		m.Rdev = st.Rdev
	}
}

// rootFS tells what the root of a container is, whose path on the host is dir.
func rootFS(dir string, container, host []*mountinfo.Info) (migrate.RootFS, *migrate.Finding) {
	r := migrate.RootFS{Kind: migrate.RootPlain, Path: dir}
	i := slices.IndexFunc(container, func(m *mountinfo.Info) bool { return m.Mountpoint == "/" })
	if i < 0 {
		return r, &migrate.Finding{Code: CodeRootFS, What: "the container has no root file system", Advice: "choose another container"}
	}
	root := container[i]
	mounted := slices.ContainsFunc(host, func(h *mountinfo.Info) bool { return h.Mountpoint == dir && sameFS(h, root) })
	switch {
	case root.FSType == "overlay" && root.Root == "/":
		return overlay(r, root.VFSOptions, mounted)
	case root.Root == "/":
		return r, &migrate.Finding{
			Code:   CodeRootFS,
			What:   "the container's root file system is a whole " + root.FSType + " volume (" + root.Source + ")",
			Advice: "only overlay mounts and plain directories can be moved: use the overlay storage driver",
		}
	}
	return r, nil
}

// overlay reads the options of an overlay mount, as the kernel shows them
// (Documentation/filesystems/overlayfs.rst).
func overlay(r migrate.RootFS, options string, mounted bool) (migrate.RootFS, *migrate.Finding) {
	r.Kind = migrate.RootOverlay
	for _, o := range splitOptions(options) {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			r.Lower = append(r.Lower, splitLower(value)...)
		case "lowerdir+":
			r.Lower = append(r.Lower, value)
		case "upperdir":
			r.Upper = value
		case "workdir":
			r.Work = value
		case "rw", "ro":
		default:
			r.Options = append(r.Options, o)
		}
	}
	dirs := append(slices.Clone(r.Lower), r.Upper, r.Work)
	relative := slices.ContainsFunc(dirs, func(d string) bool { return d != "" && !path.IsAbs(d) })
	if relative || r.Upper == "" || !mounted {
		return r, &migrate.Finding{
			Code:   CodeRootFS,
			What:   "the overlay of the container's root file system cannot be mounted again by what the kernel shows of it: " + options,
			Advice: "mount it with absolute paths and an upper directory, where the host sees it",
		}
	}
	return r, nil
}

// splitOptions splits at commas that no backslash precedes.
func splitOptions(s string) []string { return splitEscaped(s, ',') }

// splitLower splits a list of lower directories at single colons.
func splitLower(s string) []string { return splitEscaped(s, ':') }

func splitEscaped(s string, at byte) []string {
	var list []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == at || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == at:
			list = append(list, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(list, b.String())
}

// mountTables reads the mounts of a container's first process and our own.
func mountTables(pid int) (container, host []*mountinfo.Info, err error) {
	if container, err = mountTable(strconv.Itoa(pid)); err != nil {
		return nil, nil, err
	}
	host, err = mountTable("self")
	return container, host, err
}

func mountTable(process string) ([]*mountinfo.Info, error) {
	f, err := os.Open("/proc/" + process + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(f, nil)
}
