package source

import (
	"errors"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestAwaitFilled has this process lack memory for a while.
func TestAwaitFilled(t *testing.T) {
	if err := awaitFilled(t.Context(), os.Getpid(), time.Minute); err != nil {
		t.Fatalf("a process with all its memory: %v", err)
	}
	fd := lack(t)
	var lacks *filling
	if err := awaitFilled(t.Context(), os.Getpid(), 0); !errors.As(err, &lacks) || lacks.pid != os.Getpid() || lacks.Failure().Advice == "" {
		t.Fatalf("awaitFilled() = %v", err)
	}
	time.AfterFunc(200*time.Millisecond, func() { unix.Close(fd) })
	begin := time.Now()
	if err := awaitFilled(t.Context(), os.Getpid(), time.Minute); err != nil || time.Since(begin) < 200*time.Millisecond {
		t.Errorf("awaitFilled() = %v after %v", err, time.Since(begin))
	}
}

// lack maps memory whose missing pages are for a userfaultfd, which it returns
// (userfaultfd(2), ioctl_userfaultfd(2)).
func lack(t *testing.T) int {
	t.Helper()
	const uffdioAPI, uffdioRegister, modeMissing = 0xc018aa3f, 0xc020aa00, 1
	r, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	fd := int(r)
	mem, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	api := [3]uint64{0xaa}
	reg := [4]uint64{uint64(uintptr(unsafe.Pointer(&mem[0]))), uint64(len(mem)), modeMissing}
	for _, call := range []struct {
		op  uintptr
		arg unsafe.Pointer
	}{{uffdioAPI, unsafe.Pointer(&api)}, {uffdioRegister, unsafe.Pointer(&reg)}} {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), call.op, uintptr(call.arg)); errno != 0 {
			t.Fatal(errno)
		}
	}
	return fd
}
