package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/internal/testhost"
	"migrate/transport"
	"migrate/transport/pki"
)

// The test program is also what runs in the hosts where a case needs a process
// in a special state. It is told so by its environment.
const (
	stateEnv = "MIGRATE_TEST_STATE" // which one
	argEnv   = "MIGRATE_TEST_ARG"   // what that needs to know
	readyEnv = "MIGRATE_TEST_READY" // file to make once it is in it
)

func init() {
	state, ok := states[os.Getenv(stateEnv)]
	if !ok {
		return
	}
	err := state(os.Getenv(argEnv))
	if err == nil {
		err = os.WriteFile(os.Getenv(readyEnv), nil, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	time.Sleep(10 * time.Minute)
	os.Exit(0)
}

// states put the process into a state; what they open stays open.
var states = map[string]func(arg string) error{
	"io-uring": func(string) error {
		var params [120]byte // struct io_uring_params
		_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
		return noError(errno)
	},
	"device": mapDevice,
	"tracer": func(arg string) error { // init runs on the main thread, which lives as long as the process
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		return unix.PtraceSeize(pid)
	},
	"connected": func(arg string) error {
		var d net.Dialer
		d.SetMultipathTCP(false)
		c, err := d.DialContext(context.Background(), "tcp", arg)
		keep = append(keep, c)
		return err
	},
	"newer-agent": func(arg string) error {
		id, err := pki.Load("/etc/migrate/pki")
		if err != nil {
			return err
		}
		l, err := transport.Listen(arg, transport.Config{
			Identity: id, AllowPeer: func(string) bool { return true }, MinVersion: 50, MaxVersion: 51,
		})
		keep = append(keep, l)
		return err
	},
	"hostile": beHostile,
}

// keep keeps what the garbage collector would close.
var keep []any

func noError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// mapDevice maps the first page of some block device, without looking at it.
func mapDevice(string) error {
	numbers, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(numbers) == 0 {
		return errors.Join(errors.New("there is no block device to map"), err)
	}
	b, err := os.ReadFile(numbers[0])
	if err != nil {
		return err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err != nil {
		return err
	}
	const node = "/run/mapped-device"
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	f, err := os.Open(node)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	return err
}

// startInState starts this program in a host, in one of the states.
func startInState(t *testing.T, h *testhost.Host, state, arg string) (pid int) {
	t.Helper()
	ready := fmt.Sprintf("/run/ready-%d", nextPort.Add(1))
	pid = start(t, h, "env", stateEnv+"="+state, argEnv+"="+arg, readyEnv+"="+ready, os.Args[0])
	await(t, state, func() bool { return inHost(h, ready) })
	return pid
}

// start starts a daemon that ends with the test.
func start(t *testing.T, h *testhost.Host, args ...string) (pid int) {
	t.Helper()
	pid, err := h.Start(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(h, "KILL", pid) })
	return pid
}

// end ends a process and waits until it is gone.
func end(h *testhost.Host, signal string, pid int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h.Output(ctx, "sh", "-c", `kill -$1 $2; while kill -0 $2; do sleep 0.01; done`, "sh", signal, strconv.Itoa(pid))
}

func inHost(h *testhost.Host, path string) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", h.InitPID(), path))
	return err == nil
}

// extraAgent starts an agent of B that differs from the one it has, and
// returns the address to move to. It allows A, unless told otherwise.
func extraAgent(t *testing.T, b *testhost.Host, env []string, flags ...string) string {
	t.Helper()
	port := nextPort.Add(1)
	run := fmt.Sprintf("/run/agent-%d", port)
	// A supervisor that made way for a workload of A has left B's next numbers
	// close to those of A's next processes.
	b.Run(t, "sh", "-c", "echo 25000 > /proc/sys/kernel/ns_last_pid")
	args := append([]string{"env"}, env...)
	args = append(args, "migrate", "agent", "--listen", fmt.Sprintf(":%d", port), "--run-dir", run, "--state-dir", "/var/lib/migrate"+run)
	if !strings.Contains(strings.Join(flags, " "), "--allow") {
		args = append(args, "--allow", "A")
	}
	pid, err := b.Start(t.Context(), append(args, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(b, "TERM", pid) })
	await(t, "the agent listens", func() bool { return inHost(b, run+"/agent.json") })
	return fmt.Sprintf("B:%d", port)
}

// tmpfs mounts a small file system in a host.
func tmpfs(t *testing.T, h *testhost.Host, dir, options string) {
	t.Helper()
	h.Run(t, "mkdir", "-p", dir)
	h.Run(t, "mount", "-t", "tmpfs", "-o", options, "small", dir)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := h.Output(ctx, "umount", dir); err != nil {
			t.Error(err)
		}
	})
}

// fill takes all space that a file system has left.
func fill(t *testing.T, h *testhost.Host, dir string) {
	t.Helper()
	h.Run(t, "sh", "-c", `cat /dev/zero > "$1/filler" 2>/dev/null; true`, "sh", dir)
}
