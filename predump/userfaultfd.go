package predump

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/internal/inject"
)

// userfaultfd(2), ioctl_userfaultfd(2) and include/uapi/linux/userfaultfd.h.
const (
	uffdUserModeOnly = 1

	uffdioAPI          = 0xc018aa3f // _IOWR(0xaa, 0x3f, struct uffdio_api)
	uffdioRegister     = 0xc020aa00 // _IOWR(0xaa, 0, struct uffdio_register)
	uffdAPI            = 0xaa
	uffdRegisterModeWP = 2

	uffdFeatureWPHugetlbfsShmem = 1 << 12
	uffdFeatureWPUnpopulated    = 1 << 13 // anonymous memory is watched also where there is none yet
	uffdFeatureWPAsync          = 1 << 15 // the kernel lifts the protection itself; Linux 6.7
)

// openUffd makes a userfaultfd of the calling process. User mode only is what
// every program may ask for; in the asynchronous mode the kernel's own writes are
// seen all the same.
func openUffd() (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		return -1, fmt.Errorf("userfaultfd: %w", errno)
	}
	return enableUffd(int(fd))
}

// enableUffd asks for the asynchronous write protection, and closes fd if the
// kernel has none.
func enableUffd(fd int) (int, error) {
	api := struct{ api, features, ioctls uint64 }{
		uffdAPI, uffdFeatureWPAsync | uffdFeatureWPUnpopulated | uffdFeatureWPHugetlbfsShmem, 0,
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uffdioAPI, uintptr(unsafe.Pointer(&api)))
	if errno != 0 {
		unix.Close(fd)
		return -1, fmt.Errorf("userfaultfd without asynchronous write protection: %w", errno)
	}
	return fd, nil
}

// stealUffd makes a userfaultfd in another process and takes it out of there.
func stealUffd(pid int) (fd int, err error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	th, err := inject.Stop(pid)
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, th.Resume()) }()
	theirs, err := th.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserModeOnly)
	if err != nil {
		return -1, fmt.Errorf("userfaultfd in process %d: %w", pid, err)
	}
	ours, err := unix.PidfdGetfd(pidfd, int(theirs), 0)
	if _, closeErr := th.Syscall(unix.SYS_CLOSE, theirs); err == nil && closeErr != nil {
		unix.Close(ours)
		err = closeErr
	}
	if err != nil {
		return -1, fmt.Errorf("taking the userfaultfd of process %d: %w", pid, err)
	}
	return enableUffd(ours)
}

// register makes fd watch a mapping. What it watches already stays so.
func register(fd int, m extent) error {
	arg := struct{ start, length, mode, ioctls uint64 }{m.start, m.end - m.start, uffdRegisterModeWP, 0}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uffdioRegister, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
