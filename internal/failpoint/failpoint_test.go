package failpoint

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// TestMain lets the test binary stand in for a process that reaches places.
func TestMain(m *testing.M) {
	if os.Getenv("FAILPOINT_CHILD") == "" {
		os.Exit(m.Run())
	}
	for _, name := range []string{"a", "b", "b", "c"} {
		Reach(name)
	}
	os.Exit(7)
}

func TestReach(t *testing.T) {
	for _, c := range []struct {
		name, points, log string
		stops             int
		end               syscall.WaitStatus // exit status or signal, as wait(2) encodes it
	}{
		{"unset", "", "", 0, 7 << 8},
		{"other", "z,y=kill", "", 0, 7 << 8},
		{"stop", "a", "failpoint a\n", 1, 7 << 8},
		{"once", "b", "failpoint b\n", 1, 7 << 8},
		{"two", "a, c", "failpoint a\nfailpoint c\n", 2, 7 << 8},
		{"kill", "a,b=kill,c", "failpoint a\nfailpoint b\n", 1, syscall.WaitStatus(syscall.SIGKILL)},
	} {
		t.Run(c.name, func(t *testing.T) {
			logFile := filepath.Join(t.TempDir(), "log")
			stops, end := run(t, c.points, logFile)
			if stops != c.stops || end != c.end {
				t.Errorf("stops = %d, end = %#x, want %d, %#x", stops, end, c.stops, c.end)
			}
			if got, _ := os.ReadFile(logFile); string(got) != c.log {
				t.Errorf("log = %q, want %q", got, c.log)
			}
		})
	}
}

// run counts how often the child stopped and says how it ended.
func run(t *testing.T, points, logFile string) (int, syscall.WaitStatus) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), "FAILPOINT_CHILD=1",
		"MIGRATE_FAILPOINT="+points, "MIGRATE_FAILPOINT_LOG="+logFile)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for stops := 0; ; stops++ {
		var ws syscall.WaitStatus
		if _, err := syscall.Wait4(cmd.Process.Pid, &ws, syscall.WUNTRACED, nil); err != nil {
			t.Fatal(err)
		}
		if !ws.Stopped() {
			return stops, ws
		}
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParse(t *testing.T) {
	if m := parse(""); m != nil {
		t.Errorf("parse(\"\") = %v, want nil", m)
	}
	if got := slices.Sorted(maps.Keys(parse(" a ,,b=kill,"))); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("parse names = %q, want a and b", got)
	}
}

func BenchmarkReach(b *testing.B) {
	for b.Loop() {
		Reach("nothing")
	}
}
