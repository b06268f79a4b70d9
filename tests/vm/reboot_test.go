package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"migrate/internal/testload"
)

// TestVMReboot installs the package on a machine with systemd and has it reboot.
// What runs there leaves before anything that it needs is stopped.
func TestVMReboot(t *testing.T) {
	root, err := SourceTree()
	if err != nil {
		t.Fatal(err)
	}
	set, err := Start(t.Context(), Options{Root: root, Log: os.Stderr, Systemd: []string{"A"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Stop)
	s := &stage{T: t, set: set, a: set.Machine("A"), b: set.Machine("B"), row: &Row{}}
	t.Cleanup(func() {
		if t.Failed() {
			s.explain()
		}
	})
	s.install(root)
	s.checkUnits()
	s.capsule(s.a, "--memory", "2")
	session := s.session()

	start := time.Now()
	_, _, _, _ = s.a.Try(t.Context(), "systemctl", "reboot") // the machine ends before there is an answer, or after
	select {
	case <-s.a.ended:
	case <-time.After(10 * time.Minute):
		t.Fatal("the machine does not reboot")
	}
	t.Logf("it was down after %v", time.Since(start).Round(time.Second))
	s.verify(s.b)
	s.well(s.b, sessionPort)
	out := s.sh(s.b, "migrate ps --all --json")
	for _, ref := range []string{"capsule:load", session} {
		if !strings.Contains(out, `"ref":"`+ref+`"`) {
			t.Errorf("B has no %s:\n%s", ref, out)
		}
	}
}

// install installs the package, in place of the programs that all machines have.
func (s *stage) install(root string) {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), filepath.Join(root, "packaging", "deb"), filepath.Join(root, "build", "vm", "migrate"), s.TempDir())
	cmd.Env = append(os.Environ(), "VERSION=1.2.3")
	deb, err := cmd.Output()
	if err != nil {
		s.Fatalf("packaging/deb: %v", err)
	}
	if err := stopAgent(s.Context(), s.a.Guest); err != nil {
		s.Fatal(err)
	}
	if err := s.a.PutFile(s.Context(), strings.TrimSpace(string(deb)), "/root/migrate.deb"); err != nil {
		s.Fatal(err)
	}
	s.sh(s.a, `rm /usr/local/bin/migrate && dpkg -i /root/migrate.deb`)
	s.await(s.a, "systemctl is-active migrate-agent")
	s.sh(s.a, `sed -i "s/^allow: .*/allow: [B]/" /etc/migrate/agent.yaml && systemctl reload migrate-agent
		printf 'hosts:\n  - name: B\n' >/etc/migrate/inventory.yaml
		echo 'DRAIN_OPTIONS="--max-rounds 2 --freeze-timeout 5m"' >>/etc/default/migrate-drain
		systemctl enable --now migrate-drain`)
}

// checkUnits has systemd look at the units, and gives it a network to take down.
func (s *stage) checkUnits() {
	s.Helper()
	if out := s.sh(s.a, "systemd-analyze verify --man=no migrate-agent.service migrate-drain.service 2>&1"); strings.Contains(out, "migrate") {
		s.Errorf("systemd-analyze verify:\n%s", out)
	}
	if out := s.sh(s.a, "systemctl is-enabled migrate-agent migrate-drain"); out != "enabled\nenabled\n" {
		s.Errorf("the units are %q", out)
	}
	s.sh(s.a, `systemd-run --quiet --unit=net -p Type=oneshot -p RemainAfterExit=yes -p Before=network.target -p Wants=network.target \
		-p "ExecStop=/usr/sbin/ip link set eth1 down" /usr/bin/true`)
	if out := s.sh(s.a, "systemctl is-active net.service network.target network-online.target"); out != "active\nactive\nactive\n" {
		s.Errorf("the network is %q", out)
	}
}

// sessionPort is where the workload of a person's session answers.
const sessionPort = "7002"

// session starts a workload as somebody would who has logged in: in a scope that
// systemd stops when the machine goes down.
func (s *stage) session() (ref string) {
	s.Helper()
	pid := s.sh(s.a, `setsid systemd-run --quiet --scope --unit=session-9 testload --only-deleted --dir /tmp --memory 2 --listen 0.0.0.0:`+
		sessionPort+` </dev/null >/dev/null 2>&1 & echo $!`)
	ref = "process:" + strings.TrimSpace(pid)
	s.well(s.a, sessionPort)
	s.sh(s.a, "migrate label "+ref+" app=session")
	if out := s.sh(s.a, "systemctl show --property=Before --value session-9.scope"); !strings.Contains(out, "migrate-drain.service") {
		s.Errorf("the session is stopped before %q only", out)
	}
	return ref
}

// well demands that the workload on a port finds nothing wrong.
func (s *stage) well(m *Machine, port string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	status, err := testload.Await(ctx, m, "127.0.0.1:"+port)
	if err == nil {
		err = status.Check()
	}
	if err != nil {
		s.Fatalf("the workload at port %s of %s: %v", port, m.Name, err)
	}
}

// await waits until a command succeeds on a machine.
func (s *stage) await(m *Machine, command string) {
	s.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		stdout, stderr, code, err := m.Try(s.Context(), "sh", "-c", command)
		if err == nil && code == 0 {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("%s on %s: status %d, %v\n%s%s", command, m.Name, code, err, stdout, stderr)
		}
	}
}
