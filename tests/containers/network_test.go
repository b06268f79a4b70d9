package containers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/testhost"
)

// A lan is three hosts at one switch: two with a bridge that containers are at, and one
// for their clients.
type lan struct {
	a, b, client     *testhost.Host
	bridgeA, bridgeB string
}

func newLAN(t *testing.T, o testhost.Options, bridgeB string) lan {
	t.Helper()
	o.Names = []string{"A", "B", "C"}
	set := testhost.Up(t, o)
	l := lan{set.Host("A"), set.Host("B"), set.Host("C"), "br0", bridgeB}
	bridge(t, l.a, l.bridgeA)
	bridge(t, l.b, l.bridgeB)
	l.client.Run(t, "ip", "addr", "add", "fd77::3/64", "dev", "eth0", "nodad")
	return l
}

// bridge puts the host's link into a bridge, which takes its address over.
func bridge(t *testing.T, h *testhost.Host, name string) {
	t.Helper()
	h.Run(t, "sh", "-c", fmt.Sprintf(`ip link add %[1]s address $(cat /sys/class/net/eth0/address) type bridge forward_delay 0 &&
		ip addr flush dev eth0 && ip link set eth0 master %[1]s && ip addr add %[2]s/24 dev %[1]s && ip link set %[1]s up`, name, h.Address()))
}

func (l lan) bridgeOf(h *testhost.Host) string {
	if h == l.a {
		return l.bridgeA
	}
	return l.bridgeB
}

// attach makes the network of a container on a host: what is there is done in the
// namespace, which ip(8) knows by the name.
func (l lan) attach(t *testing.T, h *testhost.Host, ns, end string, addresses ...string) {
	t.Helper()
	script := fmt.Sprintf(`ip link add %[1]s type veth peer name eth0 netns %[2]s && ip link set %[1]s master %[3]s up &&
		ip -n %[2]s link set lo up && ip netns exec %[2]s sysctl -qw net.ipv6.conf.eth0.accept_dad=0 && ip -n %[2]s link set eth0 up`, end, ns, l.bridgeOf(h))
	for _, a := range addresses {
		script += fmt.Sprintf(" && ip -n %s addr add %s dev eth0", ns, a)
	}
	h.Run(t, "sh", "-c", script)
}

// redisFS adds redis to a root file system.
func redisFS(t *testing.T, root string) {
	t.Helper()
	const program = "/usr/bin/redis-server"
	out, err := exec.CommandContext(t.Context(), "ldd", program).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v: run scripts/setup", program, err)
	}
	for _, path := range append(regexp.MustCompile(`/\S+`).FindAllString(string(out), -1), program) {
		to := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "cp", "-L", path, to).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
	}
}

// overlaid has the root file system be the lower layer of an overlay on a host, whose upper
// one is on the machine.
func overlaid(t *testing.T, h *testhost.Host, s *specs.Spec, bundle string) {
	t.Helper()
	dirs := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dirs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mounted := bundle + "/rootfs"
	h.Run(t, "mkdir", "-p", mounted)
	h.Run(t, "mount", "-t", "overlay", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%[2]s/upper,workdir=%[2]s/work", s.Root.Path, dirs), mounted)
	s.Root.Path = "rootfs"
}

// inNetwork has a container join a network namespace by name.
func inNetwork(s *specs.Spec, path string) {
	for i, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			s.Linux.Namespaces[i].Path = path
		}
	}
}

// redis starts one in a container with the addresses, in a network namespace with the name
// of the container if it is to be named.
func (l lan) redis(t *testing.T, h *testhost.Host, runtime, id string, named bool, addresses ...string) container {
	t.Helper()
	if named {
		h.Run(t, "ip", "netns", "add", id)
		l.attach(t, h, id, "veth-"+id, addresses...)
	}
	c := start(t, h, runtime, id, func(s *specs.Spec) {
		redisFS(t, s.Root.Path)
		overlaid(t, h, s, "/run/bundles/"+id)
		if named {
			inNetwork(s, "/run/netns/"+id)
		}
	}, "/usr/bin/redis-server", "--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/tmp")
	if !named {
		_, pid := c.state(h)
		h.Run(t, "ip", "netns", "attach", "starting", itoa(pid))
		l.attach(t, h, "starting", "veth-"+id, addresses...)
		h.Run(t, "ip", "netns", "delete", "starting")
	}
	return c
}

// traceless demands that nothing of a network that moved is left on a host.
func traceless(t *testing.T, h *testhost.Host) {
	t.Helper()
	const script = `ls /run/netns 2>/dev/null; ip -o link | grep -v -e " lo:" -e " eth0" -e " br0:" -e " lan0:"; nft list tables; true`
	var out string
	defer func() {
		if out != "" {
			t.Logf("left on %s: %s", h.Name, out)
		}
	}()
	await(t, "no network is left on "+h.Name, func() bool {
		out = strings.TrimSpace(h.Run(t, "sh", "-c", script))
		return out == ""
	})
}
