package workload

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const helperEnv = "MIGRATE_WORKLOAD_TEST_HELPER"

// What a namespace is shown for is the first thread of a process: a helper runs on
// that, where package main begins, and stays there.
func init() {
	if os.Getenv(helperEnv) != "" {
		runtime.LockOSThread()
	}
}

// TestMain is also the program that real tests inspect.
func TestMain(m *testing.M) {
	if what := os.Getenv(helperEnv); what != "" {
		if err := helpers[what](); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// helpers put the process into a state; what they open stays open.
var helpers = map[string]func() error{
	"plain": func() error { return nil },
	"io-uring": func() error {
		var params [120]byte
		fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
		if errno != 0 {
			return errno
		}
		_, err := unix.Mmap(int(fd), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return err
	},
	// As a shell that writes to one file and then to another.
	"restless-fd": func() error {
		null, err1 := unix.Open("/dev/null", unix.O_WRONLY, 0)
		exe, err2 := unix.Open("/proc/self/exe", unix.O_RDONLY, 0)
		err3 := unix.Dup3(null, 100, 0)
		go func() {
			for {
				_ = unix.Dup3(exe, 100, 0)
				_ = unix.Dup3(null, 100, 0)
			}
		}()
		return firstOf(err1, err2, err3)
	},
	"userfaultfd": func() error {
		_, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, 1, 0, 0) // UFFD_USER_MODE_ONLY
		if errno != 0 {
			return errno
		}
		return nil
	},
	"good-fds": func() error {
		_, err1 := unix.Eventfd(0, 0)
		_, err2 := unix.EpollCreate1(0)
		_, err3 := unix.InotifyInit1(0)
		_, err4 := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0)
		_, err5 := unix.Signalfd(-1, &unix.Sigset_t{}, 0)
		_, err6 := unix.PidfdOpen(os.Getpid(), 0)
		_, err7 := unix.Open("/dev/null", unix.O_RDWR, 0)
		_, err8 := unix.Open("/dev/urandom", unix.O_RDONLY, 0)
		_, err9 := unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
		return firstOf(err1, err2, err3, err4, err5, err6, err7, err8, err9)
	},
	"pidfd-outside": func() error {
		_, err := unix.PidfdOpen(os.Getppid(), 0)
		return err
	},
	"pidfd-thread": func() error {
		_, err := unix.PidfdOpen(os.Getpid(), unix.O_EXCL) // PIDFD_THREAD
		return err
	},
	"sysv": func() error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
		if err != nil {
			return err
		}
		_, err = unix.SysvShmAttach(id, 0, 0)
		_, err2 := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		return firstOf(err, err2)
	},
	"tcp": func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		keep = append(keep, l, c, u)
		fmt.Println(l.Addr(), c.LocalAddr(), u.LocalAddr())
		return nil
	},
	"mptcp": func() error {
		_, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
		return err
	},
	"vsock": func() error {
		_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		return err
	},
	"device": func() error {
		_, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
		return err
	},
	"unix-inside": func() error {
		_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		return err
	},
	"unix-outside": func() error {
		c, err := net.Dial("unix", os.Getenv("PEER"))
		keep = append(keep, c)
		return err
	},
	"files": func() error {
		dir := os.Getenv("DIR")
		read, err1 := os.Open(dir + "/read")
		write, err2 := os.OpenFile(dir+"/write", os.O_RDWR, 0)
		gone, err3 := os.Open(dir + "/gone")
		linked, err4 := os.Open(dir + "/linked")
		d, err5 := os.Open(dir)
		keep = append(keep, read, write, gone, linked, d)
		memfd, err6 := unix.MemfdCreate("x", 0)
		if err := firstOf(err1, err2, err3, err4, err5, err6, os.Remove(dir+"/gone"), os.Remove(dir+"/linked"), os.Chdir(dir)); err != nil {
			return err
		}
		_, err := unix.Write(memfd, make([]byte, 1<<20))
		return err
	},
	"memory": func() error {
		mem, err := unix.Mmap(-1, 0, 32<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		shared, err := unix.Mmap(-1, 0, 16<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
		for i := 0; i < len(mem); i += 4096 {
			mem[i] = 1
		}
		for i := 0; i < len(shared); i += 4096 {
			shared[i] = 1
		}
		keep = append(keep, mem, shared)
		return err
	},
	"device-map": func() error { // the first disk that there is
		disks, err := os.ReadDir("/sys/block")
		for _, d := range disks {
			var fd int
			if fd, err = unix.Open("/dev/"+d.Name(), unix.O_RDONLY, 0); err == nil {
				_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
				return firstOf(err, unix.Close(fd))
			}
		}
		return err
	},
	"timens-children": func() error { return unix.Unshare(unix.CLONE_NEWTIME) },
}

var keep []any

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// launch runs the test program as helper what, in a session of its own, and
// returns it with what it printed before it was ready.
func launch(t *testing.T, what string, env ...string) (*exec.Cmd, []string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	return start(t, cmd, append(env, helperEnv+"="+what)...)
}

func start(t *testing.T, cmd *exec.Cmd, env ...string) (*exec.Cmd, []string) {
	t.Helper()
	cmd.Env = append(append(os.Environ(), "GODEBUG=asyncpreemptoff=1"), env...)
	cmd.Stderr = os.Stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var said []string
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if sc.Text() == "ready" {
			return cmd, said
		}
		said = append(said, strings.Fields(sc.Text())...)
	}
	t.Fatalf("helper said %q and ended", said)
	return nil, nil
}
