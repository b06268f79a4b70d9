package workload

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"migrate/workload/proc"
)

// FileInUse is a regular file that a process may change without its times telling
// when.
type FileInUse struct {
	// Path is as the process sees it. "" is a file whose path does not lead to it:
	// the name is gone, and it may have others.
	Path   string
	Mapped bool // shared, whether or not it can be written to now; else open for writing
}

// FilesInUse returns what the processes of the tree under root have in such use.
// What begins while it looks may be missing.
func FilesInUse(root int) ([]FileInUse, error) {
	tree, err := proc.Descendants(root)
	if err != nil {
		return nil, err
	}
	var list []FileInUse
	mounts := mountsOf(root)
	for _, p := range tree {
		u := usage{pid: p.PID, root: rootOf(p.PID), elsewhere: mountsOf(p.PID) != mounts, seen: map[FileInUse]bool{}}
		if err := u.descriptors(); err != nil && !proc.Gone(err) {
			return nil, err
		}
		if err := u.mappings(); err != nil && !proc.Gone(err) {
			return nil, err
		}
		list = append(list, u.list...)
	}
	return list, nil
}

// mountsOf names the mount namespace of a process.
func mountsOf(pid int) string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)) // "" if it has just ended
	return ns
}

// usage gathers the files of one process.
type usage struct {
	pid       int
	root      string // leads to where its paths are found
	elsewhere bool   // it has mounts other than the root's, by which a path may mean another file
	seen      map[FileInUse]bool
	list      []FileInUse
}

func (u *usage) descriptors() error {
	dir := fmt.Sprintf("/proc/%d/fd", u.pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		link := dir + "/" + e.Name()
		path, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(path, "/") {
			continue // closed, or no file
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", u.pid, e.Name()))
		if err != nil || !writes(string(info)) {
			continue
		}
		u.add(link, path, false)
	}
	return nil
}

// writes reads the flags of a descriptor.
func writes(fdinfo string) bool {
	flags := parseFDInfo(fdinfo).Flags
	return flags&unix.O_ACCMODE != unix.O_RDONLY && flags&unix.O_PATH == 0
}

// mappings adds every shared one. Whether it can be written to at the moment does
// not matter: a page that is dirty stays so when a process takes that right from
// itself and gives it back (mprotect(2)), and is then written to without a fault.
func (u *usage) mappings() error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", u.pid))
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		m, span, ok := parseMap(sc.Text())
		if ok && sharedMap(sc.Text()) && strings.HasPrefix(m.Path, "/") {
			u.add(fmt.Sprintf("/proc/%d/map_files/%s", u.pid, span), strings.ReplaceAll(m.Path, `\012`, "\n"), true)
		}
	}
	return sc.Err()
}

// sharedMap reads the permissions in a line of maps.
func sharedMap(line string) bool {
	f := strings.Fields(line)
	return len(f) > 1 && strings.HasSuffix(f[1], "s")
}

// add notes a file that has a name. One that cannot be looked at any more has just
// been closed or unmapped.
func (u *usage) add(link, path string, mapped bool) {
	var st, named unix.Stat_t
	if err := unix.Stat(link, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink == 0 {
		return
	}
	f := FileInUse{Path: path, Mapped: mapped}
	if u.elsewhere || unix.Lstat(u.root+path, &named) != nil || named.Dev != st.Dev || named.Ino != st.Ino {
		f.Path = ""
	}
	if !u.seen[f] {
		u.seen[f] = true
		u.list = append(u.list, f)
	}
}
