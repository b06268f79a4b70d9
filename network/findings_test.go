package network

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"migrate"
)

func codes(list []migrate.Finding) string {
	var codes []string
	for _, f := range list {
		codes = append(codes, f.Code)
	}
	slices.Sort(codes)
	return strings.Join(slices.Compact(codes), " ")
}

// What cannot be moved is found and named, all of it at once.
func TestDescribeFindings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		do       []string // ip(8) lines in the namespace
		onHost   []string
		blockers string
		warnings string
		mentions string
	}{
		{name: "nothing"},
		{name: "tun", do: []string{"tuntap add dev tun0 mode tun"}, blockers: CodeLink, mentions: "tun0 is a tun device"},
		{name: "bridge", do: []string{"link add br9 type bridge"}, blockers: CodeLink, mentions: "br9 is a bridge"},
		{name: "vxlan", do: []string{"link add vx0 type vxlan id 7 dstport 4789 dev eth0"}, blockers: CodeLink, mentions: "vx0 is a vxlan"},
		{name: "pair inside", do: []string{"link add in0 type veth peer name in1"}, blockers: CodePeer, mentions: "in0"},
		{name: "no bridge", onHost: []string{"link set veth-web nomaster"}, blockers: CodePeer, mentions: "veth-web, the host's end of link eth0, is not in a bridge"},
		{name: "macvlan inside", do: []string{"link add mv0 link eth0 type macvlan mode bridge"}, blockers: CodeParent, mentions: "mv0"},
		{name: "encapsulation", do: []string{"route add 2001:db8::/32 encap seg6 mode encap segs fd77::8 dev eth0"}, blockers: CodeRoute, mentions: "2001:db8::/32"},
		{name: "several", do: []string{"tuntap add dev tun0 mode tap", "link add br9 type bridge"}, onHost: []string{"link set veth-web nomaster"},
			blockers: CodeLink + " " + CodePeer, mentions: "tun0 is a tap device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t)
			w := workload(t, n.a, bridgeA, "10.77.0.50/24", "fd77::50/64")
			if c.do != nil {
				ip(t, w, c.do...)
			}
			if c.onHost != nil {
				ip(t, n.a, c.onHost...)
			}
			d, found, err := Describe(w, n.a)
			must(t, err)
			if got := codes(found.Blockers); got != c.blockers {
				t.Errorf("blockers %q, want %q: %v", got, c.blockers, found.Blockers)
			}
			if got := codes(found.Warnings); got != c.warnings {
				t.Errorf("warnings %q, want %q: %v", got, c.warnings, found.Warnings)
			}
			if !slices.ContainsFunc(found.Blockers, func(f migrate.Finding) bool { return strings.Contains(f.What, c.mentions) }) && c.mentions != "" {
				t.Errorf("none says %q: %v", c.mentions, found.Blockers)
			}
			overTheWire(t, d)
		})
	}
}

func TestDescribeQdisc(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	w := workload(t, n.a, bridgeA, "10.77.0.50/24")
	run(t, w, "", "tc", strings.Fields("qdisc add dev eth0 root tbf rate 10mbit burst 32kbit latency 50ms")...)
	_, found, err := Describe(w, n.a)
	must(t, err)
	if codes(found.Warnings) != CodeQdisc || !strings.Contains(found.Warnings[0].What, "tbf") {
		t.Errorf("warnings %v", found.Warnings)
	}
}

// The target tells of everything in the way.
func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		onHost   []string // ip(8) lines on the target
		bridges  map[string]string
		mtu      int
		change   func(*Description)
		blockers string
		warnings string
	}{
		{name: "nothing", bridges: map[string]string{bridgeA: bridgeB}},
		{name: "no bridge", blockers: CodeBridge},
		{name: "not a bridge", bridges: map[string]string{bridgeA: "uplink"}, blockers: CodeBridge},
		{name: "address", bridges: map[string]string{bridgeA: bridgeB}, onHost: []string{"addr add 10.77.0.50/32 dev lo"}, blockers: CodeAddressIn},
		{name: "IPv6 address", bridges: map[string]string{bridgeA: bridgeB}, onHost: []string{"addr add fd77::50/64 dev lo"}, blockers: CodeAddressIn},
		{name: "MAC", bridges: map[string]string{bridgeA: bridgeB}, onHost: []string{"link add x address 02:77:00:00:00:50 type veth peer name y"}, blockers: CodeMACIn},
		{name: "MTU", bridges: map[string]string{bridgeA: bridgeB}, change: func(d *Description) { d.Links[1].MTU = 9000 }, blockers: CodeMTU},
		{name: "VLAN", bridges: map[string]string{bridgeA: bridgeB}, change: func(d *Description) { d.Links[1].Peer.VLANs = []VLAN{{ID: 7}} }, blockers: CodeVLAN},
		{name: "STP", bridges: map[string]string{bridgeA: bridgeB}, onHost: []string{"link set " + bridgeB + " type bridge stp_state 1"}, warnings: CodeSTP},
		{name: "setting", bridges: map[string]string{bridgeA: bridgeB}, change: func(d *Description) { d.Sysctls["ipv4/gone_by_now"] = "1" }, warnings: CodeSysctl},
		{name: "congestion control", bridges: map[string]string{bridgeA: bridgeB}, change: func(d *Description) { d.Sysctls["ipv4/tcp_congestion_control"] = "carrier_pigeon" }, blockers: CodeCongestion},
		{name: "all at once", onHost: []string{"addr add 10.77.0.50/32 dev lo"}, change: func(d *Description) { d.Sysctls["ipv4/tcp_congestion_control"] = "carrier_pigeon" },
			blockers: CodeAddressIn + " " + CodeBridge + " " + CodeCongestion},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t)
			d := describe(t, workload(t, n.a, bridgeA, "10.77.0.50/24", "fd77::50/64"), n.a)
			if c.onHost != nil {
				ip(t, n.b, c.onHost...)
			}
			if c.change != nil {
				c.change(&d)
			}
			target := &Target{ID: migrate.NewID(), Host: n.b, Bridges: c.bridges}
			found, err := target.Check(d)
			must(t, err)
			if got := codes(found.Blockers); got != c.blockers {
				t.Errorf("blockers %q, want %q: %v", got, c.blockers, found.Blockers)
			}
			if got := codes(found.Warnings); got != c.warnings {
				t.Errorf("warnings %q, want %q: %v", got, c.warnings, found.Warnings)
			}
		})
	}
}

// An address is taken if a container on the same bridge has it, not if one on another
// bridge does.
func TestCheckContainers(t *testing.T) {
	t.Parallel()
	for bridge, want := range map[string]string{bridgeB: CodeAddressIn + " " + CodeMACIn, "elsewhere": ""} {
		n := newLAN(t)
		d := describe(t, workload(t, n.a, bridgeA, "10.77.0.50/24"), n.a)
		ip(t, n.b, "link add elsewhere type bridge", "link set elsewhere up")
		occupy(t, workload(t, n.b, bridge, "10.77.0.50/24"))
		target := n.target()
		found, err := target.Check(d)
		must(t, err)
		if got := codes(found.Blockers); got != want {
			t.Errorf("with a container on %s: blockers %q, want %q: %v", bridge, got, want, found.Blockers)
		}
	}
}

// occupy starts a process in a namespace, by which the namespace is found.
func occupy(t *testing.T, ns *Namespace) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	must(t, ns.Do(cmd.Start))
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}
