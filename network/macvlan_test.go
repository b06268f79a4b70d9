package network

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// A macvlan moves to a parent of another name. It has no end that could be down: the lock
// alone keeps it silent until the commit.
func TestMoveMacvlan(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"10.77.0.60", "fd77::60"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t)
			cable(t, n.a, "wire", n.fabric, "wire-a")
			cable(t, n.b, "cord", n.fabric, "wire-b")
			ip(t, n.fabric, "link set wire-a master fabric up", "link set wire-b master fabric up")
			ip(t, n.a, "link set wire up")
			ip(t, n.b, "link set cord up")
			w := macvlan(t, n.a, "wire")
			want := view(t, w)
			serve(t, w, "a")
			client := newAsker(t, n.client, address)
			if got := client.ask(t, patience); got != "a" {
				t.Fatalf("before the move %q answers", got)
			}

			d := describe(t, w, n.a)
			target := n.target()
			target.Bridges["wire"] = "cord"
			if found, err := target.Check(d); err != nil || len(found.Blockers)+len(found.Warnings) > 0 {
				t.Fatalf("Check() = %v, %v", found, err)
			}
			must(t, Lock(w, target.ID))
			moved := scratch(t)
			sent := newCapture(t, n.b, "cord")
			must(t, target.Fill(moved, d))
			serve(t, moved, "b")
			if got := client.ask(t, silence); got != "" {
				t.Fatalf("with both locked %q answers", got)
			}
			if out := sent.all(func(p packet) bool { return p.out && p.from() == d.Links[1].MAC }); len(out) > 0 {
				t.Errorf("%d frames leaked, the first: % x", len(out), out[0].bytes)
			}
			must(t, target.Up(moved, d))
			noTentative(t, moved)
			diff(t, "up", view(t, moved), want)
			must(t, Announce(t.Context(), moved, d, Rounds{Count: 1}))
			sent.await(t, "announcement", func(p packet) bool { return p.out && p.from() == d.Links[1].MAC })
			if got := client.ask(t, patience); got != "b" {
				t.Fatalf("after the move %q answers", got)
			}
			must(t, Release(w, d))
			if got := run(t, w, "", "ip", "-o", "link"); strings.Contains(got, "mac0") {
				t.Errorf("the source still has it: %s", got)
			}
		})
	}
}

func macvlan(t *testing.T, host *Namespace, parent string) *Namespace {
	t.Helper()
	w := scratch(t)
	h := handleIn(t, host)
	up, err := h.LinkByName(parent)
	must(t, err)
	target := Target{Host: host}
	m := maker{Target: &target, ns: w, index: map[string]int{}}
	must(t, m.open())
	t.Cleanup(m.close)
	must(t, m.create(Link{Name: "mac0", Kind: KindMacvlan, MAC: "02:77:00:00:00:60", MTU: 1500, Mode: 3, Parent: up.Attrs().Name}, 0))
	run(t, w, "0", "sh", "-c", "cat > /proc/sys/net/ipv6/conf/mac0/accept_dad")
	ip(t, w, "link set lo up", "link set mac0 up", "addr add 10.77.0.60/24 dev mac0", "addr add fd77::60/64 dev mac0 nodad",
		"route add default via 10.77.0.9", "route add default via fd77::9 dev mac0")
	run(t, w, "1", "sh", "-c", "cat > /proc/sys/net/ipv6/conf/mac0/accept_dad")
	return w
}

func TestRemoveMacvlan(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	for _, host := range []*Namespace{n.a, n.b} { // a port of a bridge cannot be a parent
		ip(t, host, "link add wire type veth peer name plug", "link set wire up", "link set plug up")
	}
	d := describe(t, macvlan(t, n.a, "wire"), n.a)
	moved := scratch(t)
	target := n.target()
	must(t, target.Fill(moved, d))
	must(t, target.Remove(moved))
	if got := run(t, moved, "", "ip", "-o", "link"); strings.Contains(got, "mac0") {
		t.Errorf("left %s", got)
	}
}

// A bridge can be the parent of a macvlan, on the target too.
func TestMacvlanOnBridge(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	w := scratch(t)
	h := handleIn(t, n.a)
	parent, err := h.LinkByName(bridgeA)
	must(t, err)
	must(t, h.LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0", ParentIndex: parent.Attrs().Index, Namespace: netlink.NsFd(w.Fd()), TxQLen: -1},
		Mode:      netlink.MACVLAN_MODE_BRIDGE,
	}))
	d := describe(t, w, n.a)
	found, err := n.target().Check(d)
	if err != nil || len(found.Blockers) > 0 {
		t.Fatalf("Check() = %v, %v", found, err)
	}
}
