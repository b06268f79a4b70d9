package guest

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// client returns one whose guest is this process.
func client(t *testing.T) Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go Serve(l)
	return Client{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}}
}

func shell(script string) []string { return []string{"sh", "-c", script} }

func TestRun(t *testing.T) {
	c := client(t)
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, script, stdin string
		code                int
		stdout, stderr      string
	}{
		{name: "output", script: "echo out; echo err >&2", stdout: "out\n", stderr: "err\n"},
		{name: "status", script: "exit 7", code: 7},
		{name: "signal", script: "kill -9 $$", code: 137},
		{name: "input", script: "cat", stdin: strings.Repeat("x", 3<<20), stdout: strings.Repeat("x", 3<<20)},
		{name: "a daemon that keeps the pipe", script: "sleep 20 & echo started", stdout: "started\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, err bytes.Buffer
			start := time.Now()
			code, e := c.Run(t.Context(), Command{Args: shell(test.script), Stdin: strings.NewReader(test.stdin), Stdout: &out, Stderr: &err})
			if e != nil || code != test.code || out.String() != test.stdout || err.String() != test.stderr {
				t.Errorf("status %d, %d bytes out, err %q, %v", code, out.Len(), err.String(), e)
			}
			if d := time.Since(start); d > 15*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
	if _, err := c.Run(t.Context(), Command{Args: []string{"no-such-program"}}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestSignal(t *testing.T) {
	c := client(t)
	signals := make(chan os.Signal, 1)
	out := notify{ready: make(chan struct{})}
	go func() { <-out.ready; signals <- syscall.SIGUSR1 }()
	code, err := c.Run(t.Context(), Command{Args: shell("trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"), Stdout: &out, Signals: signals})
	if code != 5 || err != nil {
		t.Errorf("status %d, %v", code, err)
	}
}

// notify is a writer that tells its first write.
type notify struct{ ready chan struct{} }

func (n *notify) Write(b []byte) (int, error) {
	close(n.ready)
	return len(b), nil
}

// TestClientGone ends a command whose client went away.
func TestClientGone(t *testing.T) {
	c := client(t)
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for b := []byte(nil); len(b) == 0; time.Sleep(10 * time.Millisecond) {
			b, _ = os.ReadFile(file)
		}
		cancel()
	}()
	if _, err := c.Run(ctx, Command{Args: shell("echo $$ >" + file + "; exec sleep 100")}); err == nil {
		t.Error("it ended by itself")
	}
	b, _ := os.ReadFile(file)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(b))); err != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the command runs on")
		}
	}
}

// TestBackground leaves alone what a command started and did not wait for.
func TestBackground(t *testing.T) {
	c := client(t)
	file := filepath.Join(t.TempDir(), "said")
	if _, err := c.Run(t.Context(), Command{Args: shell("{ sleep 0.5; echo alive >" + file + "; } >/dev/null 2>&1 &")}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if b, _ := os.ReadFile(file); string(b) == "alive\n" {
			return
		}
		if time.Now().After(end) {
			t.Fatal("it was ended with the command")
		}
	}
}

func TestFiles(t *testing.T) {
	c := client(t)
	path := filepath.Join(t.TempDir(), "new", "file")
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	if err := c.Put(t.Context(), path, 0o751, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o751 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	var got bytes.Buffer
	if err := c.Get(t.Context(), path, &got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("got %d of %d bytes, %v", got.Len(), len(content), err)
	}
	if err := c.Get(t.Context(), path+".none", &got); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, want := range []Settings{
		{Name: "A", Number: 3, Address: "10.0.0.3/24"},
		{Name: "B", Number: 4, Address: "10.0.0.4/24", Uptime: 1000, SSH: true},
	} {
		got, err := ParseCommandLine("console=ttyS0 quiet " + want.CommandLine() + "\n")
		if err != nil || got != want {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	for _, bad := range []string{"", "vm.name=A vm.number=1 vm.ip=1/2 vm.uptime=long", "vm.name=A vm.ip=1/2", "vm.name=A vm.number=x vm.ip=1/2", "vm.number=1 vm.ip=1/2"} {
		if s, err := ParseCommandLine(bad); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}
