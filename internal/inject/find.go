package inject

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// findSyscall returns the address of a system call instruction in the process:
// in the kernel's own [vdso], or where there is none in any code that it has.
func findSyscall(pid int) (uint64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if errors.Is(err, fs.ErrNotExist) {
		err = unix.ESRCH
	}
	if err != nil {
		return 0, err
	}
	if len(maps) == 0 {
		return 0, unix.ESRCH // it has ended, and nobody has waited for it
	}
	for _, m := range executable(string(maps)) {
		if addr, ok := search(pid, m); ok {
			return addr, nil
		}
	}
	return 0, errors.New("it has no system call instruction")
}

// isSyscall reports whether a system call instruction is at addr.
func isSyscall(pid int, addr uint64) bool {
	b := make([]byte, len(instruction))
	_, err := unix.ProcessVMReadv(pid, iovec(b), remote(addr, len(b)), 0)
	return err == nil && bytes.Equal(b, instruction)
}

type span struct{ start, end uint64 }

// executable lists the code in a /proc/PID/maps, the vdso first.
func executable(maps string) []span {
	var out []span
	for line := range strings.Lines(maps) {
		var m span
		var perms string
		n, _ := fmt.Sscanf(line, "%x-%x %s", &m.start, &m.end, &perms)
		if n != 3 || !strings.HasPrefix(perms, "r-x") || strings.HasSuffix(line, "[vsyscall]\n") {
			continue
		}
		if strings.HasSuffix(line, "[vdso]\n") {
			out = slices.Insert(out, 0, m)
			continue
		}
		out = append(out, m)
	}
	return out
}

// search reads at most the first MiB of the code.
func search(pid int, m span) (addr uint64, ok bool) {
	b := make([]byte, min(m.end-m.start, 1<<20))
	n, err := unix.ProcessVMReadv(pid, iovec(b), remote(m.start, len(b)), 0)
	if err != nil {
		return 0, false
	}
	for at := 0; ; at++ {
		next := bytes.Index(b[at:n], instruction)
		if next < 0 {
			return 0, false
		}
		at += next
		if at%instructionAlign == 0 {
			return m.start + uint64(at), true
		}
	}
}
