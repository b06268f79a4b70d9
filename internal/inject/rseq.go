package inject

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// restartable is the word of a thread's struct rseq by which the kernel knows
// that it is in a restartable sequence (include/uapi/linux/rseq.h). While the
// thread is elsewhere the kernel clears it, and would not restart the sequence
// when the thread is back in its middle.
type restartable struct {
	tid     int
	address uint64 // 0 if the thread is in none
	value   [8]byte
}

// ptraceGetRseq is PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13.
const ptraceGetRseq = 0x420f

// rseqCS is the offset of the word in struct rseq.
const rseqCS = 8

func getRestartable(tid int) restartable {
	var c struct {
		pointer                     uint64
		size, signature, flags, pad uint32
	}
	if ptraceAt(ptraceGetRseq, tid, unsafe.Sizeof(c), unsafe.Pointer(&c)) != nil || c.pointer == 0 {
		return restartable{} // the thread, or the kernel, has none
	}
	r := restartable{tid: tid, address: c.pointer + rseqCS}
	n, err := unix.ProcessVMReadv(tid, iovec(r.value[:]), remote(r.address, 8), 0)
	if err != nil || n != 8 || binary.NativeEndian.Uint64(r.value[:]) == 0 {
		return restartable{}
	}
	return r
}

func (r *restartable) put() error {
	if r.address == 0 {
		return nil
	}
	_, err := unix.ProcessVMWritev(r.tid, iovec(r.value[:]), remote(r.address, 8), 0)
	return err
}

func iovec(b []byte) []unix.Iovec {
	v := []unix.Iovec{{Base: &b[0]}}
	v[0].SetLen(len(b))
	return v
}

func remote(addr uint64, n int) []unix.RemoteIovec {
	return []unix.RemoteIovec{{Base: uintptr(addr), Len: n}}
}
