package predump

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// An area is a mapping whose pages are copied ahead.
type area struct{ start, end uint64 }

// areas lists the mappings of a process that a pass reads: the private ones
// that can be read. All others (shared memory, devices, huge pages, what has no
// read permission) are left to the final dump, which has them anyway.
func areas(pid int) ([]area, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []area
	s := bufio.NewScanner(f)
	for s.Scan() {
		if a, ok := parseArea(s.Text()); ok {
			out = append(out, a)
		}
	}
	return out, s.Err()
}

// parseArea reads one line of proc_pid_maps(5) and tells whether it counts.
func parseArea(line string) (area, bool) {
	var a area
	var perms string
	if _, err := fmt.Sscanf(line, "%x-%x %s", &a.start, &a.end, &perms); err != nil {
		return area{}, false
	}
	if len(perms) < 4 || perms[0] != 'r' || perms[3] != 'p' {
		return area{}, false
	}
	return a, copyable(name(line))
}

// name returns the sixth field, which may hold spaces.
func name(line string) string {
	for range 5 {
		_, rest, _ := strings.Cut(line, " ")
		line = strings.TrimLeft(rest, " ")
	}
	return line
}

func copyable(name string) bool {
	for _, prefix := range []string{"[vdso]", "[vvar", "[vsyscall]", "/dev/", "/anon_hugepage", "anon_inode:"} {
		if strings.HasPrefix(name, prefix) {
			return strings.HasPrefix(name, "/dev/zero")
		}
	}
	return true
}
