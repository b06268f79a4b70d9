package clock

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The child of TestOffsets changes the namespace of its first thread, the one
// that /proc/PID speaks of.
func init() {
	if os.Getenv("CLOCK_CHILD") != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	offsets := os.Getenv("CLOCK_CHILD")
	if offsets == "" {
		os.Exit(m.Run())
	}
	err := unix.Unshare(unix.CLONE_NEWTIME)
	if err == nil {
		err = os.WriteFile("/proc/self/timens_offsets", []byte(offsets), 0)
	}
	fmt.Println(err)
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test ends
	os.Exit(0)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making a time namespace needs root")
	}
}

func TestOffsets(t *testing.T) {
	needRoot(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), "CLOCK_CHILD=monotonic -2 500000000\nboottime 3600 1\n")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	mono, boot, err := Offsets(cmd.Process.Pid)
	if mono != -1500*time.Millisecond || boot != time.Hour+1 || err != nil {
		t.Errorf("Offsets = %v, %v, %v, want -1.5s, 1h0m0.000000001s", mono, boot, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, _, err := Offsets(cmd.Process.Pid); err == nil {
		t.Error("Offsets of an ended process = nil, want error")
	}
}

func TestParseOffsets(t *testing.T) {
	for text, want := range map[string][2]time.Duration{
		"monotonic           0         0\nboottime            0         0\n": {0, 0},
		"monotonic        -100 999999999\nboottime            5         7\n": {-100*time.Second + 999999999, 5*time.Second + 7},
		"1 2 3\n7 4 5\n": {2*time.Second + 3, 4*time.Second + 5},
		"":               {0, 0},
	} {
		mono, boot, err := parseOffsets([]byte(text))
		if mono != want[0] || boot != want[1] || err != nil {
			t.Errorf("parseOffsets(%q) = %v, %v, %v, want %v", text, mono, boot, err, want)
		}
	}
	if _, _, err := parseOffsets([]byte("monotonic x y\n")); err == nil {
		t.Error("parseOffsets of words = nil, want error")
	}
}

func TestSupported(t *testing.T) {
	needRoot(t)
	before := namespaces(t)
	if !Supported() {
		t.Error("Supported = false on a kernel that these tests need CONFIG_TIME_NS of")
	}
	if after := namespaces(t); after != before {
		t.Errorf("the process is in %s after the probe, was in %s", after, before)
	}
	t.Setenv("MIGRATE_PROBE_DISABLE", "x,timens")
	if Supported() {
		t.Error("Supported = true though disabled")
	}
}

// namespaces returns what a child of this process would be born into.
func namespaces(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "readlink", "/proc/self/ns/time", "/proc/self/ns/time_for_children").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Clean(string(out))
}

func TestNow(t *testing.T) {
	last := Now()
	for range 1000 {
		now := Now()
		if now.Monotonic < last.Monotonic || now.Boottime < now.Monotonic {
			t.Fatalf("Now = %+v after %+v", now, last)
		}
		last = now
	}
}
