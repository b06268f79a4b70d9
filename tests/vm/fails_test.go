package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// failing is a variable that makes [TestVM] run one scenario, which fails.
const failing = "VM_TEST_FAILS"

// fails tells what machines there are, moves something, and fails.
func (s *stage) fails() {
	for _, m := range s.set.Machines {
		s.Logf("qemu %d of %s", m.cmd.Process.Pid, m.Name)
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", s.set.Machines[0].cmd.Process.Pid))
	s.Logf("namespace %s %v", ns, err)
	s.move(s.a, s.capsule(s.a, "--memory", "4"), s.b)
	s.Fatal("as it should")
}

// TestVMFailure demands that a scenario that fails says all that may tell why,
// and that nothing of the machines is left.
func TestVMFailure(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVM$", "-test.v", "-vm")
	cmd.Env = append(os.Environ(), failing+"=1", "VM_REPORT="+filepath.Join(t.TempDir(), "report.json"))
	b, err := cmd.CombinedOutput()
	out := string(b)
	if err == nil {
		t.Fatalf("it did not fail:\n%s", out)
	}
	for _, want := range []string{
		"as it should", "=== A, kernel", "=== B, kernel", "guest: ready after", // the consoles
		"--- agent's log", "level=", "--- /var/lib/migrate/journal/", `"side":"source"`, `"side":"target"`, "| fails |",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	machines := regexp.MustCompile(`qemu (\d+) of`).FindAllStringSubmatch(out, -1)
	ns := regexp.MustCompile(`net:\[\d+\]`).FindString(out)
	if len(machines) != 2 || ns == "" {
		t.Fatalf("no machines in\n%s", out)
	}
	for _, m := range machines {
		if exe, _ := os.Readlink("/proc/" + m[1] + "/exe"); strings.Contains(exe, "qemu") {
			t.Errorf("the machine %s is left", m[1])
		}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/task/*/ns/net")
	for _, l := range links {
		if is, _ := os.Readlink(l); is == ns {
			t.Errorf("%s is left: %s", ns, l)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
