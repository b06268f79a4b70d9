package inject

import (
	"errors"

	"golang.org/x/sys/unix"
)

// instruction is syscall.
var instruction = []byte{0x0f, 0x05}

const instructionAlign = 1

type registers struct{ unix.PtraceRegs }

// userCS is the code segment of 64-bit programs (arch/x86/include/asm/segment.h).
const userCS = 0x33

func getRegisters(tid int) (r registers, err error) {
	if err := unix.PtraceGetRegs(tid, &r.PtraceRegs); err != nil {
		return r, err
	}
	if r.Cs != userCS {
		return r, errors.New("it is not a 64-bit program")
	}
	return r, nil
}

// call returns r changed so that the thread makes a system call next.
func (r registers) call(entry uint64, nr uintptr, args []uintptr) registers {
	r.Rip, r.Rax = entry, uint64(nr)
	r.Orig_rax = ^uint64(0) // what was interrupted must not restart here
	for i, to := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9} {
		if i < len(args) {
			*to = uint64(args[i])
		}
	}
	return r
}

func (r registers) set(tid int) error { return unix.PtraceSetRegs(tid, &r.PtraceRegs) }

// forget has nothing to do: that the thread is in a system call, and in which,
// is a register here, Orig_rax.
func (r registers) forget(int) error { return nil }

func (r registers) result() int64 { return int64(r.Rax) }
