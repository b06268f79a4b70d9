package source

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"migrate/criu"
	"migrate/predump"
)

// lazyRanges are the mappings, by image and ascending, whose pages may be
// restored after the tree runs. Where CRIU lists pages as being in the parent
// it does not say so itself.
type lazyRanges map[uint64][]addressRange

type addressRange struct{ start, end uint64 }

// cut returns how many of the pages from address on are of one kind, and
// CRIU's flags for them.
func (l lazyRanges) cut(image, address, pages uint64) (uint64, criu.PageFlags) {
	ranges := l[image]
	i, _ := slices.BinarySearchFunc(ranges, address, func(r addressRange, a uint64) int { return cmp.Compare(r.end, a+1) })
	end := address + pages*pageSize
	switch {
	case i == len(ranges) || end <= ranges[i].start:
		return pages, criu.PagePresent
	case address < ranges[i].start:
		return (ranges[i].start - address) / pageSize, criu.PagePresent
	}
	return (min(end, ranges[i].end) - address) / pageSize, criu.PagePresent | criu.PageLazy
}

// findLazy reads the mappings of frozen tasks.
func findLazy(tasks []predump.Task) (lazyRanges, error) {
	l := lazyRanges{}
	for _, t := range tasks {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.PID))
		if err != nil {
			return nil, err
		}
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", t.PID))
		if err != nil {
			return nil, err
		}
		if !locksMemory(string(status)) {
			l[uint64(t.VPID)] = lazyMappings(string(maps))
		}
	}
	return l, nil
}

// locksMemory reports whether a task has memory that must be there at once
// (mlock(2)); which it is only a far slower file tells.
func locksMemory(status string) bool {
	_, rest, found := strings.Cut(status, "\nVmLck:")
	n, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return found && n != "0"
}

// lazyMappings returns the mappings that CRIU restores with userfaultfd
// (vma_entry_can_be_lazy in criu/include/vma.h): private and anonymous, none of
// the kernel's own.
func lazyMappings(maps string) []addressRange {
	var out []addressRange
	for line := range strings.Lines(maps) {
		f := strings.Fields(line)
		if len(f) < 5 || f[1][len(f[1])-1] != 'p' || f[4] != "0" || len(f) > 5 && !anonymous(f[5]) {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil {
			out = append(out, addressRange{start, end})
		}
	}
	return out
}

// anonymous tells names of memory from those of the kernel's own mappings.
func anonymous(name string) bool {
	return name == "[heap]" || name == "[stack]" || strings.HasPrefix(name, "[anon:")
}
