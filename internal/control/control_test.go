package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type question struct{ N int }

type answer struct{ Text string }

// socket returns a path short enough for one: at most 107 bytes.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestAsk(t *testing.T) {
	path := socket(t)
	if _, err := Ask[answer](path, time.Second, question{1}); !errors.Is(err, ErrNobody) {
		t.Errorf("Ask without a socket = %v, want ErrNobody", err)
	}
	s, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: mode %v, %v, want 0600", info.Mode(), err)
	}
	Serve(s, 5*time.Second, func(q question) answer { return answer{fmt.Sprint(q.N + 1)} })
	for i := range 3 {
		got, err := Ask[answer](path, 5*time.Second, question{i})
		if want := fmt.Sprint(i + 1); err != nil || got.Text != want {
			t.Errorf("Ask(%d) = %q, %v, want %q", i, got.Text, err, want)
		}
	}
	s.Close()
	if _, err := Ask[answer](path, time.Second, question{1}); !errors.Is(err, ErrNobody) {
		t.Errorf("Ask after Close = %v, want ErrNobody", err)
	}
}

// TestStaleSocket asks over a socket that a killed process left.
func TestStaleSocket(t *testing.T) {
	path := socket(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := Ask[answer](path, time.Second, question{}); !errors.Is(err, ErrNobody) {
		t.Errorf("Ask = %v, want ErrNobody", err)
	}
}

// TestSilence asks a server that listens and does not serve.
func TestSilence(t *testing.T) {
	path := socket(t)
	s, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Ask[answer](path, 50*time.Millisecond, question{}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Ask = %v, want a timeout", err)
	}
}

// TestNonsense hangs up on an asker that says nothing sensible.
func TestNonsense(t *testing.T) {
	path := socket(t)
	s, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	Serve(s, 5*time.Second, func(question) answer { t.Error("answered"); return answer{} })
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("[nonsense\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	conn.Close()
	s.Close()
}
