package workload

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"migrate/internal/buildid"
	"migrate/workload/proc"
)

// rootOf is a path through which this process finds files as pid does, where it
// has other mounts than we have; else "".
func rootOf(pid int) string {
	theirs, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	ours, err2 := os.Readlink("/proc/self/ns/mnt")
	if err1 != nil || err2 != nil || theirs == ours {
		return ""
	}
	return fmt.Sprintf("/proc/%d/root", pid)
}

// readFDs returns the descriptors of a process, and its working directory.
func readFDs(pid int) ([]FD, error) {
	root := rootOf(pid)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var fds []FD
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fd, err := settledFD(pid, n, root)
		if proc.Gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", n, err)
		}
		fds = append(fds, fd)
	}
	if m, err := readFile(fmt.Sprintf("/proc/%d/cwd", pid), root); err == nil {
		fds = append(fds, FD{FileFacts: m, Number: workingDir, Slave: -1})
	}
	return fds, nil
}

// looks is how often a thing of a running process is looked at that is another one
// by the time that all is known of it.
const looks = 4

// settledFD reads a descriptor again that was another file's before all was read.
func settledFD(pid, n int, root string) (fd FD, err error) {
	link := fmt.Sprintf("/proc/%d/fd/%d", pid, n)
	for range looks {
		if fd, err = readFD(pid, n, root); err != nil || !leadsElsewhere(link, fd.Path) {
			break
		}
	}
	return fd, err
}

// leadsElsewhere tells whether a link has changed since it was read; one that is gone has not.
func leadsElsewhere(link, was string) bool {
	now, err := os.Readlink(link)
	return err == nil && now != was
}

func readFD(pid, n int, root string) (FD, error) {
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, n)
	m, err := readFile(path, root)
	if err != nil {
		return FD{}, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, n))
	if err != nil {
		return FD{}, err
	}
	fd := parseFDInfo(string(b))
	fd.FileFacts, fd.Number = m, n
	if m.Mode&unix.S_IFMT == unix.S_IFSOCK {
		fd.Proto = protocol(path)
	}
	return fd, nil
}

// parseFDInfo reads what proc_pid_fdinfo(5) says of a descriptor. The number of
// a master's slave is there since Linux 4.14.
func parseFDInfo(text string) FD {
	fd := FD{Slave: -1}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "flags":
			n, _ := strconv.ParseInt(value, 8, 64)
			fd.Flags = int(n)
		case "tty-index":
			if n, err := strconv.Atoi(value); err == nil {
				fd.Slave = n
			}
		case "mnt_id":
			fd.Mount, _ = strconv.Atoi(value)
		case "Pid":
			fd.PidFD, _ = strconv.Atoi(value)
		}
	}
	return fd
}

// protocol returns the kernel's name for a socket's protocol, by the extended
// attribute through which CRIU asks too.
func protocol(path string) string {
	buf := make([]byte, 64)
	n, err := unix.Getxattr(path, "system.sockprotoname", buf)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(buf[:n]), "\x00")
}

// readFile looks at what a magic link of /proc refers to, without opening it.
// root leads to where its path is to be found. The process runs, and its descriptor
// may be another file's at the next look: so the first one holds it (O_PATH of open(2)).
func readFile(link, root string) (m FileFacts, err error) {
	fd, err := unix.Open(link, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return m, err
	}
	defer unix.Close(fd)
	held := fmt.Sprintf("/proc/self/fd/%d", fd)
	for range looks {
		if m, err = heldFile(held, root); err != nil || m.Named || !leadsElsewhere(held, m.Path) {
			break
		}
	}
	return m, err
}

func heldFile(held, root string) (FileFacts, error) {
	path, err := os.Readlink(held)
	if err != nil {
		return FileFacts{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(held, &st); err != nil {
		return FileFacts{}, err
	}
	m := FileFacts{
		Path: path, Dev: st.Dev, Rdev: st.Rdev, Inode: st.Ino, Mode: st.Mode,
		Size: st.Size, Links: uint64(st.Nlink), Blocks: st.Blocks,
	}
	if !strings.HasPrefix(path, "/") {
		return m, nil
	}
	var named unix.Stat_t
	if unix.Lstat(root+path, &named) == nil {
		m.Named = named.Dev == st.Dev && named.Ino == st.Ino
	}
	var fs unix.Statfs_t
	if unix.Statfs(held, &fs) == nil {
		m.Pseudo = pseudo[fs.Type]
	}
	return m, nil
}

// pseudo lists the filesystems whose files are made by the kernel and are there
// on every host.
var pseudo = map[int64]bool{
	unix.PROC_SUPER_MAGIC:    true,
	unix.SYSFS_MAGIC:         true,
	unix.CGROUP_SUPER_MAGIC:  true,
	unix.CGROUP2_SUPER_MAGIC: true,
	unix.DEBUGFS_MAGIC:       true,
	unix.TRACEFS_MAGIC:       true,
	unix.SECURITYFS_MAGIC:    true,
	unix.DEVPTS_SUPER_MAGIC:  true,
}

// readMaps returns what is mapped, once for each file, and every mapping of
// something that is no regular file.
func readMaps(pid int) ([]Mapping, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	seen, root := map[string]bool{}, rootOf(pid)
	var list []Mapping
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		m, span, ok := parseMap(sc.Text())
		key := fmt.Sprint(m.Path, " ", m.Inode, m.Write)
		if !ok || seen[key] {
			continue
		}
		seen[key] = true
		// Without CAP_CHECKPOINT_RESTORE, or when it has just been
		// unmapped, the line itself is all there is.
		if found, err := readFile(fmt.Sprintf("/proc/%d/map_files/%s", pid, span), root); err == nil {
			m.FileFacts = found
			if m.Mode&unix.S_IFMT == unix.S_IFREG && m.Named {
				m.BuildID = buildid.Of(root + m.Path)
			}
		}
		list = append(list, m)
	}
	return list, sc.Err()
}

// sysvPrefix begins what the kernel calls System V shared memory.
const sysvPrefix = "/SYSV"

// parseMap reads "START-END PERMS OFFSET DEVICE INODE PATH" of proc_pid_maps(5),
// and returns the name that the mapping has in map_files. Anonymous memory is
// not ok.
func parseMap(line string) (m Mapping, span string, ok bool) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 6 || len(f[1]) != 4 {
		return Mapping{}, "", false
	}
	from, to, _ := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil {
		return Mapping{}, "", false
	}
	m.Start = start
	m.Inode, _ = strconv.ParseUint(f[4], 10, 64)
	m.Path = strings.TrimLeft(f[5], " ")
	m.Write = f[1][1] == 'w' && f[1][3] == 's'
	// maps pads its numbers to eight digits, map_files does not.
	// The inode of System V shared memory is its number, which may be 0 (ipc/shm.c).
	ok = m.Inode != 0 || m.Path == "[uprobes]" || strings.HasPrefix(m.Path, sysvPrefix)
	return m, fmt.Sprintf("%x-%x", start, end), ok
}

// readMemory returns how many bytes a dump of the process holds, as far as can
// be told without reading its page tables: anonymous pages (copied-on-write ones of
// private files included; those shared with a parent are dumped for each), what is
// swapped out, its share of shared memory, and huge pages. Clean pages of files
// are not dumped.
func readMemory(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	return parseMemory(string(b)), nil
}

func parseMemory(rollup string) uint64 {
	var kib uint64
	for line := range strings.Lines(rollup) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "Anonymous", "Swap", "Pss_Shmem", "Shared_Hugetlb", "Private_Hugetlb":
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			kib += n
		}
	}
	return kib << 10
}
