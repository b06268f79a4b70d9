package network

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"migrate"
)

// ruleset is one of each thing that nftables has, but for what needs a device.
const ruleset = `
table inet filter {
	counter web { packets 5 bytes 500; }
	set blocked { type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 10.3.0.1 } }
	map marks { type inet_service : mark; elements = { 80 : 0x1, 443 : 0x2 } }
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		ip saddr @blocked drop
		tcp dport { 22, 80, 443 } counter name web accept comment "web"
		meta mark set tcp dport map @marks
		tcp dport vmap { 7 : accept, 9 : jump other }
		udp dport 7 accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		limit rate 10/second counter packets 3 bytes 300 log prefix "odd "
	}
	chain other { ip saddr . tcp dport { 10.0.0.1 . 80, 10.0.0.2 . 443 } return; }
}
table ip nat {
	chain dns { type nat hook output priority -100; policy accept; ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:40000; }
}
`

// bigSet is a set that fills more than one netlink message.
func bigSet() string {
	var b strings.Builder
	b.WriteString("table inet filter {\n set big { type ipv4_addr; elements = { 10.9.0.0")
	for i := 1; i < 20000; i++ {
		fmt.Fprintf(&b, ", 10.9.%d.%d", i/256, i%256)
	}
	return b.String() + " }; }\n}\n"
}

// Rules of the namespace are the same after the move, and the locks of both sides are none
// of them.
func TestFirewallMoves(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	w := workload(t, n.a, bridgeA, "10.77.0.50/24")
	run(t, w, ruleset+bigSet(), "nft", "-f", "-")
	want := run(t, w, "", "nft", "list", "ruleset")
	must(t, Lock(w, migrate.NewID()))
	run(t, w, "add table inet CRIU-123\n", "nft", "-f", "-")

	d, found, err := Describe(w, n.a)
	must(t, err)
	if codes(found.Blockers) != "" || codes(found.Warnings) != CodeConntrack {
		t.Errorf("findings %v", found)
	}
	target := n.target()
	if found, err := target.Check(overTheWire(t, d)); err != nil || len(found.Blockers) > 0 {
		t.Fatalf("Check() = %v, %v", found, err)
	}
	moved := scratch(t)
	must(t, target.Fill(moved, overTheWire(t, d)))
	must(t, target.Up(moved, d))
	if got := run(t, moved, "", "nft", "list", "ruleset"); got != want {
		t.Errorf("the rules are now\n%.3000s\nwere\n%.3000s", got, want)
	}
	serve(t, moved, "b")
	must(t, Release(w, d))
	must(t, Announce(t.Context(), moved, d, Rounds{Count: 1}))
	if got := newAsker(t, n.client, "10.77.0.50").ask(t, patience); got != "b" {
		t.Errorf("%q answers through the firewall", got)
	}
}

// A kernel that does not take the rules says so ahead of the move.
func TestFirewallRefused(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	d := describe(t, workload(t, n.a, bridgeA, "10.77.0.50/24"), n.a)
	d.Firewall = []Message{{Type: 6, Family: 1, Data: []byte("\x06\x00\x01\x00a\x00\x00\x00\x06\x00\x02\x00b\x00\x00\x00")}} // a rule without its table
	target := n.target()
	found, err := target.Check(overTheWire(t, d))
	must(t, err)
	if codes(found.Blockers) != CodeFirewall || !regexp.MustCompile("does not take .*: ").MatchString(found.Blockers[0].What) {
		t.Errorf("blockers %v", found.Blockers)
	}
	if err := target.Fill(scratch(t), d); err == nil || !strings.Contains(err.Error(), "set nftables") {
		t.Errorf("Fill() = %v", err)
	}
	must(t, target.Remove(nil))
}
