package inject

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// instruction is svc #0.
var instruction = []byte{0x01, 0x00, 0x00, 0xd4}

const instructionAlign = 4

type registers struct{ unix.PtraceRegsArm64 }

func getRegisters(tid int) (r registers, err error) {
	return r, unix.PtraceGetRegSetArm64(tid, unix.NT_PRSTATUS, &r.PtraceRegsArm64)
}

// call returns r changed so that the thread makes a system call next. Register
// 7 must stay: the kernel puts it back at system call stops.
func (r registers) call(entry uint64, nr uintptr, args []uintptr) registers {
	r.Pc, r.Regs[8] = entry, uint64(nr)
	for i, a := range args {
		r.Regs[i] = uint64(a)
	}
	return r
}

func (r registers) set(tid int) error {
	return unix.PtraceSetRegSetArm64(tid, unix.NT_PRSTATUS, &r.PtraceRegsArm64)
}

// forget makes the kernel forget that the thread comes from a system call: it
// would take what was in register 0 for that call's result and might restart it.
// What was interrupted before needs no help, the kernel had set its registers
// back before it stopped (arch/arm64/kernel/signal.c, do_signal).
func (r registers) forget(tid int) error {
	none := int32(-1)
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(&none))}
	v.SetLen(4)
	return ptraceAt(unix.PTRACE_SETREGSET, tid, unix.NT_ARM_SYSTEM_CALL, unsafe.Pointer(&v))
}

func (r registers) result() int64 { return int64(r.Regs[0]) }
