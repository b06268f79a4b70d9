package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate"
)

func TestShimArgs(t *testing.T) {
	t.Setenv(shimVariable, filepath.Join(t.TempDir(), "none"))
	for _, args := range [][]string{nil, {"restore"}, {"swrk"}, {"swrk", "x"}, {"swrk", "-1"}, {"swrk", "3", "4"}, {"dump", "3"}} {
		if err := Shim(args); err == nil || errors.Is(err, ErrGone) {
			t.Errorf("Shim(%q) = %v", args, err)
		}
	}
	if err := Shim([]string{"swrk", "3"}); !errors.Is(err, ErrGone) {
		t.Errorf("without a supervisor: %v", err)
	}
}

// TestShim has a shim hand its socket over and end as it is told.
func TestShim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv(shimVariable, path)
	for _, failure := range []*migrate.Failure{nil, {What: "the restore was given up"}} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- Shim([]string{"swrk", fmt.Sprint(pair[1])}) }()
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		var req request
		if err := readMessage(conn, &req); err != nil || req.Op != "criu" {
			t.Fatalf("the shim asks for %+v, %v", req, err)
		}
		sock, err := takeSocket(conn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sock.WriteString("answer"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if n, err := unix.Read(pair[0], b); err != nil || string(b[:n]) != "answer" {
			t.Errorf("the runtime reads %q, %v", b[:n], err)
		}
		if err := writeMessage(conn, response{Failure: failure}); err != nil {
			t.Fatal(err)
		}
		err = <-ended
		if (err == nil) != (failure == nil) || err != nil && !strings.Contains(err.Error(), failure.What) {
			t.Errorf("told %v, the shim ends with %v", failure, err)
		}
		sock.Close()
		// Nobody but us has it open: the runtime sees the end of its CRIU.
		if n, err := unix.Read(pair[0], b); n != 0 || err != nil {
			t.Errorf("after the end the runtime reads %d, %v", n, err)
		}
		unix.Close(pair[0])
		conn.Close()
	}
}

// TestTakeSocket has peers that send none.
func TestTakeSocket(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := unixConn(t, fds[0]), unixConn(t, fds[1])
	if _, err := a.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if f, err := takeSocket(b); err == nil {
		t.Errorf("a byte alone: %v", f)
	}
	a.Close()
	if f, err := takeSocket(b); err == nil {
		t.Errorf("the end: %v", f)
	}
}

func unixConn(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UnixConn)
}
