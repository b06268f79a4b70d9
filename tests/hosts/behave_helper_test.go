package hosts

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// helperWord makes this test program one of the workloads below, in place of
// running tests. All hosts see the program under the same path.
const helperWord = "behave-helper"

var helpers = map[string]func(args []string) error{
	"lines": helpLines, "pty": helpPTY, "tree": helpTree, "things": helpThings, "echo": helpEcho, "clocks": helpClocks,
	"feed": helpFeed, "vfork": helpVfork,
}

func init() {
	if len(os.Args) < 3 || os.Args[1] != helperWord {
		return
	}
	if err := helpers[os.Args[2]](os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(9)
	}
	os.Exit(0)
}

// helper returns the command line of a helper.
func helper(name string, args ...string) []string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return append([]string{exe, helperWord, name}, args...)
}

// spawn starts a helper as a child. Neither os.StartProcess nor os/exec does:
// they keep a pidfd, which an old CRIU cannot dump.
func spawn(attr *syscall.SysProcAttr, files []uintptr, argv ...string) (int, error) {
	return syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: os.Environ(), Files: files, Sys: attr})
}

// helpLines writes its PID to a file and numbered lines to standard output, and
// tells there what comes in.
func helpLines(args []string) error {
	every, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	if err := os.WriteFile(args[0], []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	input := make(chan string)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := os.Stdin.Read(b)
			if n > 0 {
				input <- fmt.Sprintf("input %q", b[:n])
			}
			if err != nil {
				input <- "input ended: " + err.Error()
				return
			}
		}
	}()
	for n := 1; ; n++ {
		line := fmt.Sprintf("line %d", n)
		select {
		case line = <-input:
			n--
		case <-time.After(every):
		}
		if _, err := fmt.Println(line); err != nil {
			os.WriteFile(args[0]+".error", []byte(err.Error()), 0o600)
			return err
		}
	}
}

// helpPTY runs a command on a new terminal, whose master it keeps: the
// terminal emulator of a test.
func helpPTY(argv []string) error {
	master, slave, err := pty.Open()
	if err != nil {
		return err
	}
	fd := slave.Fd()
	if _, err := spawn(&syscall.SysProcAttr{Setsid: true, Setctty: true}, []uintptr{fd, fd, fd}, argv...); err != nil {
		return err
	}
	slave.Close()
	io.Copy(io.Discard, master) // until the terminal has no user any more
	return nil
}

// helpTree starts children until the numbers are used up: each number is how
// many there are at that depth. They are of its own kind, but for the last, which
// sleep. Odd ones lead a session, every third one a group.
func helpTree(args []string) error {
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		child := helper("tree", args[1:]...)
		if len(args) == 1 {
			child = []string{"/bin/sleep", "1234"}
		}
		for i := range n {
			attr := &syscall.SysProcAttr{Setsid: i%2 == 1, Setpgid: i%2 == 0 && i%3 == 0}
			if _, err := spawn(attr, []uintptr{0, 1, 2}, child...); err != nil {
				return err
			}
		}
	}
	for {
		time.Sleep(time.Hour)
	}
}

// helpEcho sends back what comes in on descriptor 3.
func helpEcho([]string) error {
	f := os.NewFile(3, "socket")
	_, err := io.Copy(struct{ io.Writer }{f}, struct{ io.Reader }{f})
	return err
}

// feedBytes is more than a pipe of the usual size takes.
const feedBytes = 200_000

// helpFeed writes to its standard output, a pipe, at once and keeps it open.
func helpFeed([]string) error {
	if _, err := unix.FcntlInt(1, unix.F_SETPIPE_SZ, 1<<20); err != nil {
		return err
	}
	if err := writeAll(1, pattern(feedBytes)); err != nil {
		return err
	}
	for {
		time.Sleep(time.Hour)
	}
}

// helpVfork waits in vfork, once the file args[0] is there, for a child that
// opens the named pipe args[1] and ends. The child has a copy of the memory,
// so that it may go on as a Go program for the few steps it has.
func helpVfork(args []string) error {
	for {
		if _, err := os.Stat(args[0]); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	path, err := unix.BytePtrFromString(args[1])
	if err != nil {
		return err
	}
	at := unix.AT_FDCWD
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.CLONE_VFORK|unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 && e == 0 {
		unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(path)), unix.O_RDONLY, 0, 0, 0)
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	for e == 0 {
		time.Sleep(time.Hour)
	}
	return e
}

// clocksSeen is what a process knows of its time and other namespaces.
type clocksSeen struct {
	Mono    int64             `json:"mono"`
	Offsets string            `json:"offsets"`
	NS      map[string]string `json:"ns"`
}

func helpClocks([]string) error {
	s := clocksSeen{NS: map[string]string{}, Mono: monotonic()}
	b, err := os.ReadFile("/proc/self/timens_offsets")
	if err != nil {
		return err
	}
	s.Offsets = string(b)
	for _, kind := range []string{"pid", "net", "time", "time_for_children", "mnt", "uts", "ipc"} {
		if s.NS[kind], err = os.Readlink("/proc/self/ns/" + kind); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}
