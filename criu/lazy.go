package criu

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
)

// LazyPages tells which pages of a task may be restored after it runs: those
// that CRIU gives with [PageLazy]. In a listing dump it does not say.
//
// That is private anonymous memory that is neither locked nor the kernel's own
// (include/vma.h: vma_entry_can_be_lazy), and not the stack of the first thread:
// it is needed at once, and others read the command line there (proc_pid_cmdline(5)),
// which does not wait for memory. Nor is what can be executed and not written: the
// vDSO of an earlier kernel, which CRIU leaves in a task that it restored on another
// one, is a private mapping without a name, and the next restore reads it
// (criu/vdso.c). Huge pages are never listed.
type LazyPages struct {
	spans []span // lazy, in rising order
}

type span struct{ start, end uint64 }

// ReadLazyPages looks at a task whose mappings do not change any more. pid is in
// this process's PID namespace.
func ReadLazyPages(pid int) (LazyPages, error) {
	l, err := readLazyPages(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return LazyPages{}, fmt.Errorf("lazy pages of process %d: %w", pid, err)
	}
	return l, nil
}

func readLazyPages(proc string) (l LazyPages, err error) {
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		return l, err
	}
	// What is locked only smaps tells, for which the kernel walks all page tables.
	name := "/maps"
	if !strings.Contains(string(status), "\nVmLck:\t       0 kB\n") {
		name = "/smaps"
	}
	f, err := os.Open(proc + name)
	if err != nil {
		return l, err
	}
	defer f.Close()
	l.spans, err = lazySpans(f)
	return l, err
}

// lazySpans reads maps or smaps.
func lazySpans(r io.Reader) (spans []span, err error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 64<<10)
	added := false // the last mapping is in spans
	for in.Scan() {
		w := strings.Fields(in.Text())
		if len(w) > 0 && w[0] == "VmFlags:" {
			if added && slices.Contains(w, "lo") {
				spans = spans[:len(spans)-1]
			}
			continue
		}
		if len(w) < 5 || strings.HasSuffix(w[0], ":") {
			continue
		}
		if added = isLazy(w); added {
			var s span
			if _, err := fmt.Sscanf(w[0], "%x-%x", &s.start, &s.end); err != nil {
				return nil, fmt.Errorf("mapping %q: %w", w[0], err)
			}
			spans = append(spans, s)
		}
	}
	return spans, in.Err()
}

// isLazy tells of a line of maps, "address perms offset dev inode [name]",
// whether it is private and anonymous.
func isLazy(w []string) bool {
	if !strings.HasSuffix(w[1], "p") || w[1] == "r-xp" || w[4] != "0" {
		return false
	}
	name := strings.Join(w[5:], " ")
	return name == "" || name == "[heap]" || strings.HasPrefix(name, "[anon:")
}

// Cut cuts a run of pages in front: its first n are all lazy, or all not. n is
// at least 1 if pages is.
func (l LazyPages) Cut(address, pages uint64) (n uint64, lazy bool) {
	end := address + pages*PageSize
	if end < address {
		end = math.MaxUint64 &^ (PageSize - 1)
	}
	i, _ := slices.BinarySearchFunc(l.spans, address, func(s span, a uint64) int { return cmp.Compare(s.end, a+1) })
	if i == len(l.spans) || address < l.spans[i].start {
		if i < len(l.spans) {
			end = min(end, l.spans[i].start)
		}
		return (end - address) / PageSize, false
	}
	return (min(end, l.spans[i].end) - address) / PageSize, true
}
