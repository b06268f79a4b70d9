package criutest

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/testload"
)

// loadVariable makes the test binary a workload that checks its own memory; it
// holds the workload's flags. See [Main].
const loadVariable = "CRIUTEST_LOAD"

// startLoad starts a [testload] workload with these flags. To be alive it has
// to find all of its memory as it should be.
func (e *realEngine) startLoad(t testing.TB, attr syscall.SysProcAttr, flags string) *realProcess {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	cmd := exec.Command("/proc/self/exe") // another user need not see the way to it
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", fmt.Sprintf("%s=--listen %s --dir %s %s", loadVariable, address, dir, flags))
	attr.Setsid = true
	cmd.SysProcAttr = &attr
	if attr.Credential != nil {
		openWay(t, dir, int(attr.Credential.Uid))
	}
	return e.startAlive(t, cmd, func() (err error) {
		if waitErr := waitFor("workload to answer", func() bool { err = verified(t, address); return err == nil }); waitErr != nil {
			return fmt.Errorf("%w: %w", waitErr, err)
		}
		return nil
	})
}

// openWay lets a user into a test's directory and gives it to them.
func openWay(t testing.TB, dir string, uid int) {
	t.Helper()
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir[:strings.LastIndexByte(dir, '/')], 0o755); err != nil {
		t.Fatal(err)
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// verified has the workload check everything.
func verified(t testing.TB, address string) error {
	answer, err := testload.Query(t.Context(), address, "verify")
	if err != nil {
		return err
	}
	var s testload.Status
	if err := json.Unmarshal([]byte(answer), &s); err != nil {
		return err
	}
	return s.Check()
}

func loadMain(args string) int {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		return testload.RunChild()
	}
	var c testload.Config
	f := flag.NewFlagSet("load", flag.ExitOnError)
	c.Flags(f)
	kinds := f.Bool("kinds", false, "have memory of every kind")
	_ = f.Parse(strings.Fields(args)) // exits by itself
	if *kinds {
		if err := mapKinds(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code, err := testload.Run(c)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// mapKinds maps memory of which CRIU treats each kind in its own way, and
// leaves it there.
func mapKinds() error {
	const size, rw = 16 * unixPage, unix.PROT_READ | unix.PROT_WRITE
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer exe.Close()
	for _, k := range []struct {
		fd, prot, flags, after int
	}{
		{-1, rw, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, unix.PROT_NONE},
		{-1, rw, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, unix.PROT_READ},
		{-1, rw, unix.MAP_SHARED | unix.MAP_ANONYMOUS, rw},
		{int(exe.Fd()), rw, unix.MAP_PRIVATE, rw},
		{-1, rw, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_LOCKED, rw},
	} {
		b, err := unix.Mmap(k.fd, 0, size, k.prot, k.flags)
		if err != nil {
			return err
		}
		for i := 0; i < size/2; i += 2 * unixPage { // every other page of the first half
			b[i] = byte(i/unixPage) + 1
		}
		_ = b[size-1] // in the rest, one page that was only read
		if err := unix.Mprotect(b, k.after); err != nil {
			return err
		}
	}
	return nil
}

const unixPage = 4096
