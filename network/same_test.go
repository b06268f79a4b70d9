package network

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// rich sets up in a namespace what people set up there.
func rich(t *testing.T, w *Namespace) {
	t.Helper()
	ip(t, w,
		"link set eth0 alias front txqueuelen 500 mtu 1400",
		"addr add 10.77.0.51/24 dev eth0 label eth0:1",
		"addr add 10.99.0.1 peer 10.99.0.2/32 dev eth0",
		"addr add 10.88.0.1/16 dev eth0 noprefixroute",
		"addr add fd77::51/64 dev eth0 nodad preferred_lft 0",
		"addr add fd77::52/64 dev eth0 nodad valid_lft 5000 preferred_lft 4000",
		"addr add 127.0.0.53/8 dev lo",
		"route add default via 10.77.0.1 mtu 1300 advmss 1200",
		"route add 192.0.2.0/24 via 10.77.0.2 src 10.77.0.51 metric 7",
		"route add 198.51.100.0/24 nexthop via 10.77.0.3 weight 2 nexthop via 10.77.0.4 weight 1",
		"route add 203.0.113.0/24 via 172.16.0.1 dev eth0 onlink",
		"route add blackhole 192.0.2.128/25",
		"route add prohibit 10.66.0.0/16 table 100",
		"route add default via 10.77.0.2 table 1000",
		"route add 10.55.0.0/16 via inet6 fd77::1 dev eth0",
		"route add default via fd77::1 dev eth0",
		"route add 2001:db8::/32 via fd77::2 metric 55",
		"route add 2001:db8:1::/48 via fd77::2 table 100 expires 600",
		"route add unreachable 2001:db8:ffff::/48",
		"rule add from 10.77.0.51 table 1000 priority 500",
		"rule add fwmark 0x10/0xf0 iif eth0 prohibit priority 600",
		"rule add to 192.0.2.0/24 ipproto tcp dport 80-90 table 100 priority 700",
		"neigh add 10.77.0.7 lladdr 02:00:00:00:00:07 dev eth0 nud permanent",
		"neigh add fd77::7 lladdr 02:00:00:00:00:08 dev eth0 nud permanent",
		"neigh add proxy 10.77.0.8 dev eth0",
	)
	run(t, w, "", "ip", strings.Fields("-6 rule add from fd77::51 lookup main suppress_prefixlength 0 priority 501")...)
	for name, v := range map[string]string{
		"ipv4/ip_forward": "1", "ipv4/ping_group_range": "0\t1000", "ipv4/ip_unprivileged_port_start": "80",
		"ipv4/ip_local_port_range": "20000\t30000", "core/somaxconn": "777", "ipv4/tcp_keepalive_time": "99",
		"ipv4/tcp_rmem": "4096\t65536\t1000000", "ipv4/ip_local_reserved_ports": "8080,9000-9010",
		"ipv4/conf/eth0/rp_filter": "2", "ipv4/conf/default/log_martians": "1", "ipv4/conf/all/arp_ignore": "1",
		"ipv6/conf/eth0/dad_transmits": "3", "ipv6/conf/eth0/hop_limit": "33", "ipv6/conf/lo/disable_ipv6": "0",
		"ipv6/bindv6only": "1", "unix/max_dgram_qlen": "44",
	} {
		run(t, w, v, "sh", "-c", "cat > /proc/sys/net/"+name)
	}
}

// All that ip(8) and sysctl(8) show is the same after a move, with the links without a carrier
// and with it, and so it is for the way back.
func TestNamespaceIsTheSame(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	w := workload(t, n.a, bridgeA, "10.77.0.50/24", "fd77::50/64")
	rich(t, w)
	want := view(t, w)
	d := describe(t, w, n.a)

	target := n.target()
	moved := scratch(t)
	must(t, target.Fill(moved, d))
	diff(t, "made", view(t, moved), want)
	must(t, target.Up(moved, d))
	diff(t, "up", view(t, moved), want)

	again := describe(t, moved, n.b)
	for name, v := range d.Sysctls {
		if again.Sysctls[name] != v {
			t.Errorf("sysctl %s is %q, was %q", name, again.Sysctls[name], v)
		}
	}
	for i, l := range d.Links {
		if !maps.Equal(l.Sysctls, again.Links[i].Sysctls) {
			t.Errorf("settings of link %s are %v,\nwere %v", l.Name, again.Links[i].Sysctls, l.Sysctls)
		}
	}
	if l := d.Links[1]; l.Index != again.Links[1].Index {
		t.Errorf("link %s has number %d, had %d", l.Name, again.Links[1].Index, l.Index)
	}
}

// diff shows the lines that only one of two views has.
func diff(t *testing.T, when, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, line := range g {
		if !slices.Contains(w, line) {
			t.Errorf("%s: has  %s", when, line)
		}
	}
	for _, line := range w {
		if !slices.Contains(g, line) {
			t.Errorf("%s: lacks %s", when, line)
		}
	}
}
