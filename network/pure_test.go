package network

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPauses(t *testing.T) {
	t.Parallel()
	ms := time.Millisecond
	for _, c := range []struct {
		rounds Rounds
		want   []time.Duration
	}{
		{Rounds{}, []time.Duration{0, 50 * ms, 150 * ms, 250 * ms, 350 * ms}},
		{Rounds{Count: 1}, []time.Duration{0}},
		{Rounds{Count: 4, Initial: 10 * ms, Step: 20 * ms, Max: 25 * ms}, []time.Duration{0, 10 * ms, 25 * ms, 25 * ms}},
	} {
		if got := c.rounds.pauses(); !slices.Equal(got, c.want) {
			t.Errorf("%+v.pauses() = %v, want %v", c.rounds, got, c.want)
		}
	}
}

// The bytes are those of RFC 826 with RFC 5227, and of RFC 4861 with RFC 8200.
func TestFrames(t *testing.T) {
	t.Parallel()
	mac := net.HardwareAddr{2, 0x77, 0, 0, 0, 0x50}
	v4, v6 := netip.MustParseAddr("10.77.0.50"), netip.MustParseAddr("fd77::50")
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"request": {gratuitousARP(mac, v4, arpRequest),
			"ffffffffffff 027700000050 0806 0001 0800 06 04 0001 027700000050 0a4d0032 000000000000 0a4d0032"},
		"reply": {gratuitousARP(mac, v4, arpReply),
			"ffffffffffff 027700000050 0806 0001 0800 06 04 0002 027700000050 0a4d0032 027700000050 0a4d0032"},
		"advertisement": {neighbourAdvertisement(mac, v6, false),
			"333300000001 027700000050 86dd 60000000 0020 3a ff fd770000000000000000000000000050 ff020000000000000000000000000001" +
				"88 00 5849 20000000 fd770000000000000000000000000050 02 01 027700000050"},
	} {
		want := strings.ReplaceAll(c.want, " ", "")
		if got := hex.EncodeToString(c.got); got != want {
			t.Errorf("%s:\n%s, want\n%s", name, got, want)
		}
	}
}

// No peer gets a name, number or setting past the check that the kernel would take for
// something else.
func TestValidate(t *testing.T) {
	t.Parallel()
	good := func() Description {
		return Description{
			Links: []Link{
				{Index: 1, Name: "lo", Kind: KindLoopback, MTU: 65536},
				{Index: 2, Name: "eth0", Kind: KindVeth, MTU: 1500, MAC: "02:00:00:00:00:01",
					Peer:      &Peer{Name: "veth1", Bridge: "br0", MTU: 1500},
					Addresses: []Address{{Prefix: netipPrefix("10.0.0.1/24"), Label: "eth0", Preferred: Forever, Valid: Forever}}},
			},
			Routes:     []Route{{Dst: netipPrefix("0.0.0.0/0"), Link: "eth0", Gateway: netip.MustParseAddr("10.0.0.254"), Table: 254, Type: 1}},
			Rules:      []Rule{{Priority: 7, Goto: -1, Flow: -1, SuppressGroup: -1, SuppressPrefixLen: -1}},
			Neighbours: []Neighbour{{Link: "eth0", IP: netip.MustParseAddr("10.0.0.2")}},
			Sysctls:    map[string]string{"ipv4/ip_forward": "1"},
			Firewall:   []Message{{Type: 0, Data: []byte{6, 0, 1, 0, 'a', 0, 0, 0}}},
		}
	}
	if err := good().Validate(); err != nil {
		t.Fatalf("a good description: %v", err)
	}
	for name, spoil := range map[string]func(*Description){
		"name with a slash":   func(d *Description) { d.Links[1].Name = "../x" },
		"name of all":         func(d *Description) { d.Links[1].Name = "all" },
		"name too long":       func(d *Description) { d.Links[1].Name = "abcdefghijklmnop" },
		"pattern":             func(d *Description) { d.Links[1].Peer.Name = "eth%d" },
		"bridge with a space": func(d *Description) { d.Links[1].Peer.Bridge = "br 0" },
		"twice":               func(d *Description) { d.Links = append(d.Links, d.Links[1]) },
		"another lo":          func(d *Description) { d.Links[1].Kind, d.Links[1].Peer = KindLoopback, nil },
		"kind":                func(d *Description) { d.Links[1].Kind = "vxlan" },
		"no peer":             func(d *Description) { d.Links[1].Peer = nil },
		"MAC":                 func(d *Description) { d.Links[1].MAC = "02:00:00:00:00:00:00:01" },
		"MTU":                 func(d *Description) { d.Links[1].MTU = -1 },
		"alias":               func(d *Description) { d.Links[1].Alias = strings.Repeat("a", 256) },
		"prefix length": func(d *Description) {
			d.Links[1].Addresses[0].Prefix = netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 33)
		},
		"no prefix":           func(d *Description) { d.Links[1].Addresses[0].Prefix = netip.Prefix{} },
		"multicast":           func(d *Description) { d.Links[1].Addresses[0].Prefix = netipPrefix("224.0.0.1/24") },
		"label":               func(d *Description) { d.Links[1].Addresses[0].Label = "lo:1" },
		"address flags":       func(d *Description) { d.Links[1].Addresses[0].Flags = 1 << 20 },
		"dead address":        func(d *Description) { d.Links[1].Addresses[0].Valid = 0 },
		"too many addresses":  func(d *Description) { d.Links[1].Addresses = make([]Address, maxAddresses+1) },
		"route's link":        func(d *Description) { d.Routes[0].Link = "eth1" },
		"route's gateway":     func(d *Description) { d.Routes[0].Dst = netipPrefix("::/0") },
		"route's type":        func(d *Description) { d.Routes[0].Type = 300 },
		"too many routes":     func(d *Description) { d.Routes = make([]Route, maxRoutes+1) },
		"weight":              func(d *Description) { d.Routes[0].Hops = []Hop{{Link: "eth0"}} },
		"rule's link":         func(d *Description) { d.Rules[0].In = "a/b" },
		"rule's version":      func(d *Description) { d.Rules[0].Src = netipPrefix("::/0") },
		"rule's ports":        func(d *Description) { d.Rules[0].SrcPorts = Range{true, 2, 1} },
		"neighbour's link":    func(d *Description) { d.Neighbours[0].Link = "x" },
		"neighbour's address": func(d *Description) { d.Neighbours[0].IP = netip.Addr{} },
		"setting":             func(d *Description) { d.Sysctls["ipv4/../../kernel/core_pattern"] = "x" },
		"setting's value":     func(d *Description) { d.Sysctls["ipv4/ip_forward"] = "1\n2" },
		"link's setting":      func(d *Description) { d.Links[1].Sysctls = map[string]string{"ipv4/../../../kernel/x": "1"} },
		"VLAN":                func(d *Description) { d.Links[1].Peer.VLANs = []VLAN{{ID: 4095}} },
		"firewall type":       func(d *Description) { d.Firewall[0].Type = 2 },
		"firewall attribute":  func(d *Description) { d.Firewall[0].Data[2] = 3 },
		"firewall bytes":      func(d *Description) { d.Firewall[0].Data = []byte{255, 255, 1, 0} },
		"a lock for a firewall": func(d *Description) {
			d.Firewall[0].Data = []byte("\x1d\x00\x01\x00migrate-0123456789abcdef\x00\x00\x00\x00")
		},
		"parent of a veth":   func(d *Description) { d.Links[1].Parent = "eth0" },
		"mode of a loopback": func(d *Description) { d.Links[0].Mode = 3 },
		"broadcast of an IPv6": func(d *Description) {
			d.Links[1].Addresses[0].Prefix = netipPrefix("fd00::1/64")
			d.Links[1].Addresses[0].Broadcast = netip.MustParseAddr("10.0.0.255")
		},
		"congestion control":     func(d *Description) { d.Routes[0].Congestion = "sixteen-letters." },
		"zone":                   func(d *Description) { d.Routes[0].Gateway = netip.MustParseAddr("fe80::1%eth0") },
		"expiring IPv4 route":    func(d *Description) { d.Routes[0].Expires = 1 },
		"too many links":         func(d *Description) { d.Links = make([]Link, maxLinks+1) },
		"too much of a firewall": func(d *Description) { d.Firewall = make([]Message, maxFirewall+1) },
	} {
		d := good()
		spoil(&d)
		if err := d.Validate(); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
}
