package fill

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keeper is a process that has the same table of descriptors as this one
// (CLONE_FILES of clone(2)) and does nothing. When the last descriptor of a
// userfaultfd is closed, the pages that are missing read as zeros; with a keeper
// the death of this process closes nothing, not even the userfaultfd of a child
// that the kernel has put into the table an instant before. It must be
// killed in its turn, once nothing of the workload runs or nothing is missing.
//
// It never executes another program, since execve(2) gives a process its own
// table, and so it may do nothing that a forked Go program cannot: it
// makes system calls with all signals blocked, as package syscall does between
// fork and exec.
type keeper struct{ pid, fd int } // fd is a pidfd

func startKeeper() (k keeper, err error) {
	if k.pid, err = forkKeeper(); err != nil {
		return k, fmt.Errorf("starting a keeper: %w", err)
	}
	if k.fd, err = unix.PidfdOpen(k.pid, 0); err != nil {
		_ = unix.Kill(k.pid, unix.SIGKILL) // our child, and not reaped yet
		return k, fmt.Errorf("starting a keeper: %w", err)
	}
	return k, nil
}

// end kills it.
func (k keeper) end() {
	_ = unix.Kill(k.pid, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(k.pid, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	unix.Close(k.fd)
}

func forkKeeper() (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all := unix.Sigset_t{}
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	var before unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return 0, err
	}
	name := []byte("migrate-keeper\x00")
	id, errno := cloneKeeper(unsafe.Pointer(unsafe.SliceData(name)))
	runtime.KeepAlive(name)
	if errno != 0 {
		err = errno
	}
	return int(id), errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
}

//go:noinline
//go:norace
func cloneKeeper(name unsafe.Pointer) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	_, _, _ = unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(name), 0, 0, 0, 0)
	for {
		_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}
