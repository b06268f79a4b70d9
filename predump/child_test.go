package predump

import (
	"bytes"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// commands are what a child can be told to do with its memory.
var commands = map[string]func(data []byte){
	"map":      func([]byte) { fill(anonymous(64, unix.PROT_READ|unix.PROT_WRITE), 11) },
	"replace":  replace,
	"move":     move,
	"grow":     grow,
	"discard":  discard,
	"reopen":   reopen,
	"allocate": func([]byte) { kept = append(kept, make([]byte, 8<<20)); fill(kept[len(kept)-1], 12) },
	"direct": func(data []byte) {
		for i := range 8 { // so that one is always waiting for the device
			go direct(data[i*128*PageSize:], preads)
		}
	},
	"aio":      func(data []byte) { go direct(data, aioReader()) },
	"io_uring": func(data []byte) { go direct(data, ringReader(data)) },
	"random":   func(data []byte) { must2(unix.Getrandom(data[500*PageSize:600*PageSize], 0)) },
	"uffd":     func([]byte) { must2(openUffd()) },
}

var kept [][]byte // by the garbage collector

func must2(n int, err error) int {
	must(err)
	return n
}

func fixed(at []byte, length int) []byte {
	p, err := unix.MmapPtr(-1, 0, unsafe.Pointer(&at[0]), uintptr(length),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED)
	must(err)
	return unsafe.Slice((*byte)(p), length)
}

// replace maps other memory where some of data was.
func replace(data []byte) {
	fill(fixed(data[1000*PageSize:], 50*PageSize), 21)
}

// move swaps two parts of data by mremap(2).
func move(data []byte) {
	const size = 64 * PageSize
	spare := anonymous(64, unix.PROT_NONE)
	a, b := data[1200*PageSize:], data[1400*PageSize:]
	for _, m := range [][2][]byte{{a, spare}, {b, a}, {spare, b}} {
		_, err := unix.MremapPtr(unsafe.Pointer(&m[0][0]), size, unsafe.Pointer(&m[1][0]), size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED)
		must(err)
	}
}

// grow lets a mapping grow where it is, and another has to move for that.
func grow([]byte) {
	room := anonymous(256, unix.PROT_READ|unix.PROT_WRITE)
	must(unix.MunmapPtr(unsafe.Pointer(&room[64*PageSize]), 192*PageSize))
	fill(room[:64*PageSize], 31)
	p, err := unix.MremapPtr(unsafe.Pointer(&room[0]), 64*PageSize, nil, 128*PageSize, 0)
	must(err)
	fill(unsafe.Slice((*byte)(p), 128*PageSize)[64*PageSize:], 32)
	p, err = unix.MremapPtr(p, 128*PageSize, nil, 1024*PageSize, unix.MREMAP_MAYMOVE)
	must(err)
	fill(unsafe.Slice((*byte)(p), 1024*PageSize)[900*PageSize:], 33)
}

// discard gives pages back and writes to some of them again.
func discard(data []byte) {
	part := data[2000*PageSize : 2100*PageSize]
	must(unix.Madvise(part, unix.MADV_DONTNEED))
	fill(part[:10*PageSize], 41)
	_ = part[50*PageSize] // the shared page of zeros
}

// reopen takes all permissions away and gives them back.
func reopen(data []byte) {
	part := data[2200*PageSize : 2300*PageSize]
	must(unix.Mprotect(part, unix.PROT_NONE))
	must(unix.Mprotect(part, unix.PROT_READ|unix.PROT_WRITE))
	fill(part[:3*PageSize], 51)
}

const (
	directFrom = 2800 // pages of data that the device writes to
	directSize = 512 << 10
)

// reader has the device write part of a file to memory.
type reader func(fd int, to []byte, offset int64)

func preads(fd int, to []byte, offset int64) {
	must2(unix.Pread(fd, to, offset))
}

// direct reads two parts of a file with O_DIRECT by turns, for ever, so that
// every page changes each time without the processor's writing to it.
func direct(data []byte, read reader) {
	f, err := os.CreateTemp("", "predump-*")
	must(err)
	must(os.Remove(f.Name()))
	for _, c := range []byte{'a', 'b'} {
		must2(f.Write(bytes.Repeat([]byte{c}, directSize)))
	}
	must(f.Sync())
	must2(unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_DIRECT))
	for n := int64(0); ; n++ {
		read(int(f.Fd()), data[directFrom*PageSize:][:directSize], n%2*directSize)
	}
}

// aioReader reads with io_submit(2), as libaio does.
func aioReader() reader {
	type iocb struct { // include/uapi/linux/aio_abi.h; the operation 0 is pread
		_      [20]byte
		fd     uint32
		buf, n uint64
		off    uint64
		_      [16]byte
	}
	var ring uintptr
	_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 8, uintptr(unsafe.Pointer(&ring)), 0)
	mustErrno(errno)
	return func(fd int, to []byte, offset int64) {
		cb := &iocb{fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&to[0]))), n: uint64(len(to)), off: uint64(offset)}
		_, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, ring, 1, uintptr(unsafe.Pointer(&cb)))
		mustErrno(errno)
		var event [4]uint64
		for {
			n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, ring, 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0)
			if errno == unix.EINTR {
				continue
			}
			mustErrno(errno)
			if n == 1 {
				break
			}
		}
		if event[2] != uint64(len(to)) {
			panic("short read")
		}
	}
}

func mustErrno(errno unix.Errno) {
	if errno != 0 {
		panic(errno)
	}
}

// ringReader reads with io_uring into registered buffers (io_uring(7)).
func ringReader(data []byte) reader {
	var p struct {
		sq, cq, flags, cpu, idle, features, wq uint32
		_                                      [3]uint32
		sqOff                                  struct {
			head, tail, mask, entries, flags, dropped, array, _ uint32
			_                                                   uint64
		}
		cqOff struct {
			head, tail, mask, entries, overflow, cqes, flags, _ uint32
			_                                                   uint64
		}
	}
	r, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&p)), 0)
	mustErrno(errno)
	ring, err := unix.Mmap(int(r), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	sqes, err := unix.Mmap(int(r), 0x10000000, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	whole := data[directFrom*PageSize:][:directSize]
	v := unix.Iovec{Base: &whole[0]}
	v.SetLen(len(whole))
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_REGISTER, r, 0, uintptr(unsafe.Pointer(&v)), 1, 0, 0)
	mustErrno(errno)
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&ring[off])) }
	type sqe struct {
		op, flags          uint8
		prio               uint16
		fd                 int32
		off, addr          uint64
		n, rwFlags         uint32
		data               uint64
		index, personality uint16
	}
	return func(fd int, to []byte, offset int64) {
		const readFixed = 4
		*(*sqe)(unsafe.Pointer(&sqes[0])) = sqe{op: readFixed, fd: int32(fd), off: uint64(offset),
			addr: uint64(uintptr(unsafe.Pointer(&to[0]))), n: uint32(len(to))}
		tail := word(p.sqOff.tail)
		*word(p.sqOff.array + 4*(*tail&*word(p.sqOff.mask))) = 0
		atomic.StoreUint32(tail, *tail+1)
		const getEvents = 1
		for submit := uintptr(1); ; submit = 0 {
			_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, r, submit, 1, getEvents, 0, 0)
			if errno != unix.EINTR {
				mustErrno(errno)
			}
			if head := word(p.cqOff.head); atomic.LoadUint32(word(p.cqOff.tail)) != *head {
				if res := *(*int32)(unsafe.Pointer(&ring[p.cqOff.cqes+16*(*head&*word(p.cqOff.mask))+8])); int(res) != len(to) {
					panic(res)
				}
				atomic.StoreUint32(head, *head+1)
				return
			}
		}
	}
}
