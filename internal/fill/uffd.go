package fill

import (
	"encoding/binary"
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// The ioctls on a userfaultfd (include/uapi/linux/userfaultfd.h), with the size
// of their argument as ioctl(2) encodes it. They are the same on all 64-bit
// machines that Linux numbers as asm-generic does.
const (
	ioctlWake = 2<<30 | 16<<16 | 0xaa<<8 | 0x02
	ioctlCopy = 3<<30 | 40<<16 | 0xaa<<8 | 0x03
	ioctlZero = 3<<30 | 32<<16 | 0xaa<<8 | 0x04
)

// The kinds of event (the same header).
const (
	eventPageFault = 0x12
	eventFork      = 0x13
	eventRemap     = 0x14
	eventRemove    = 0x15
	eventUnmap     = 0x16
)

// event is struct uffd_msg.
type event struct {
	kind    uint8
	a, b, c uint64
}

const eventSize = 32

func parseEvent(b []byte) event {
	le := binary.NativeEndian
	return event{kind: b[0], a: le.Uint64(b[8:]), b: le.Uint64(b[16:]), c: le.Uint64(b[24:])}
}

// fault returns the page that somebody waits for.
func (e event) fault() uint64 { return e.b &^ (pageSize - 1) }

// child returns the userfaultfd of a forked child, which this process has now.
func (e event) child() int { return int(uint32(e.a)) }

// memory is what a filler does with the memory of one task. Its copy and zero
// return how many bytes they have placed, also with an error. The errors are the
// kernel's: EAGAIN while an event waits to be read, EEXIST at a page that is
// there, ENOENT where no registered mapping is or more than one, ESRCH when the
// task is gone.
type memory interface {
	copy(addr uint64, content []byte) (uint64, error)
	zero(addr, size uint64) (uint64, error)
	wake(addr, size uint64)
	changing() bool // an event is under way, read or not
	events(buf []byte) ([]event, error)
	close()
}

// uffd is a userfaultfd.
type uffd int

func (u uffd) copy(addr uint64, content []byte) (uint64, error) {
	arg := struct {
		dst, src, size, mode uint64
		copied               int64
	}{dst: addr, src: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(content)))), size: uint64(len(content))}
	err := u.ioctl(ioctlCopy, unsafe.Pointer(&arg))
	runtime.KeepAlive(content)
	return uint64(max(0, arg.copied)), err
}

func (u uffd) zero(addr, size uint64) (uint64, error) {
	arg := struct {
		start, size, mode uint64
		zeroed            int64
	}{start: addr, size: size}
	err := u.ioctl(ioctlZero, unsafe.Pointer(&arg))
	return uint64(max(0, arg.zeroed)), err
}

// wake makes whoever waits for a page in the range try again. It cannot fail
// for a range that a fault was in.
func (u uffd) wake(addr, size uint64) {
	arg := [2]uint64{addr, size}
	_ = u.ioctl(ioctlWake, unsafe.Pointer(&arg))
}

// changing asks for an empty copy, which is invalid, but the kernel looks for
// that last (fs/userfaultfd.c, userfaultfd_copy).
func (u uffd) changing() bool {
	_, err := u.copy(0, nil)
	return errors.Is(err, unix.EAGAIN)
}

func (u uffd) ioctl(request uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(u), uintptr(request), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// events reads what waits to be read, and nothing if nothing does: CRIU opens
// userfaultfds non-blocking (uffd.c, setup_uffd), and children inherit that.
func (u uffd) events(buf []byte) ([]event, error) {
	n, err := unix.Read(int(u), buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []event
	for b := buf[:n]; len(b) >= eventSize; b = b[eventSize:] {
		all = append(all, parseEvent(b))
	}
	return all, nil
}

func (u uffd) close() { unix.Close(int(u)) }
