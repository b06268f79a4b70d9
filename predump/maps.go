package predump

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// extent is some pages, one after the other in memory.
type extent struct{ start, end uint64 }

// parseMaps returns the mappings of a /proc/PID/maps, or a smaps, whose pages
// a Pass copies. Those that smaps says have no page of their own are left out:
// on a kernel without PAGEMAP_SCAN to look is what costs.
func parseMaps(b []byte) ([]extent, error) {
	var out []extent
	var empty, detailed bool // what smaps says of the last mapping in out
	wanted := false
	drop := func() {
		if wanted && detailed && empty {
			out = out[:len(out)-1]
		}
	}
	for line := range bytes.Lines(b) {
		key, value, isDetail := detail(string(line))
		if isDetail {
			if key == "Anonymous" || key == "Swap" {
				detailed = true
				empty = empty && value == "0"
			}
			continue
		}
		drop()
		m, err := parseMapping(string(line))
		if err != nil {
			return nil, err
		}
		wanted, empty, detailed = m.copied(), true, false
		if wanted {
			out = append(out, m.extent)
		}
	}
	drop()
	return out, nil
}

// detail takes a line of smaps apart, such as "Anonymous:   12 kB".
func detail(line string) (key, value string, ok bool) {
	f := strings.Fields(line)
	if len(f) == 0 {
		return "", "", true
	}
	key, ok = strings.CutSuffix(f[0], ":")
	if ok && len(f) > 1 {
		value = f[1]
	}
	return key, value, ok
}

// mapping is one line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	extent
	private bool
	path    string
}

func parseMapping(line string) (mapping, error) {
	f := strings.SplitN(strings.TrimSpace(line), " ", 6)
	if len(f) < 5 || len(f[1]) != 4 {
		return mapping{}, fmt.Errorf("unexpected line in maps: %q", line)
	}
	from, to, _ := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil || end < start {
		return mapping{}, fmt.Errorf("unexpected range in maps: %q", line)
	}
	m := mapping{extent: extent{start, end}, private: f[1][3] == 'p'}
	if len(f) == 6 {
		m.path = strings.TrimLeft(f[5], " ")
	}
	return m, nil
}

// kernelOwn are mappings that the kernel makes and a restore does not fill.
var kernelOwn = []string{"[vdso]", "[vvar", "[vsyscall]", "[uprobes]", "anon_inode:", "/anon_hugepage"}

// copied reports whether pages of the mapping are worth a look. Reading device
// memory could have effects; process_vm_readv refuses it, /proc/PID/mem does
// not.
func (m mapping) copied() bool {
	if !m.private {
		return false
	}
	for _, prefix := range kernelOwn {
		if strings.HasPrefix(m.path, prefix) {
			return false
		}
	}
	device := strings.HasPrefix(m.path, "/dev/") && !strings.HasPrefix(m.path, "/dev/shm/") && m.path != "/dev/zero"
	return !device
}
