package network

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"migrate"
)

// lan is two hosts and a client at one switch, each a network namespace. The bridge of
// host a is called br0, that of host b has another name.
type lan struct {
	a, b, client, fabric *Namespace
}

const (
	bridgeA = "br0"
	bridgeB = "lan0"
)

func newLAN(t testing.TB) *lan {
	t.Helper()
	n := &lan{a: scratch(t), b: scratch(t), client: scratch(t), fabric: scratch(t)}
	ip(t, n.fabric, "link add fabric type bridge", "link set fabric up")
	ip(t, n.a, "link set lo up", "link add "+bridgeA+" type bridge", "link set "+bridgeA+" up")
	ip(t, n.b, "link set lo up", "link add "+bridgeB+" type bridge", "link set "+bridgeB+" up")
	cable(t, n.a, "uplink", n.fabric, "port-a")
	cable(t, n.b, "uplink", n.fabric, "port-b")
	cable(t, n.client, "eth0", n.fabric, "port-c")
	for _, port := range []string{"port-a", "port-b", "port-c"} {
		ip(t, n.fabric, "link set "+port+" master fabric up")
	}
	ip(t, n.a, "link set uplink master "+bridgeA+" up")
	ip(t, n.b, "link set uplink master "+bridgeB+" up")
	awaitLink(t, n.a, bridgeA) // else it would change under a test
	awaitLink(t, n.b, bridgeB)
	ip(t, n.client, "link set lo up", "addr add 10.77.0.9/24 dev eth0", "addr add fd77::9/64 dev eth0 nodad", "link set eth0 up")
	return n
}

// scratch returns a namespace that ends with the test.
func scratch(t testing.TB) *Namespace {
	t.Helper()
	ns, err := newNamespace()
	if err != nil {
		t.Fatalf("newNamespace() = %v (these tests need root)", err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// cable makes a veth pair between two namespaces.
func cable(t testing.TB, one *Namespace, oneName string, other *Namespace, otherName string) {
	t.Helper()
	h := handleIn(t, one)
	v := netlink.NewVeth(netlink.LinkAttrs{Name: oneName, TxQLen: -1})
	v.PeerName, v.PeerNamespace = otherName, netlink.NsFd(other.Fd())
	if err := h.LinkAdd(v); err != nil {
		t.Fatalf("cable from %s to %s: %v", oneName, otherName, err)
	}
}

func handleIn(t testing.TB, ns *Namespace) *netlink.Handle {
	t.Helper()
	h, err := ns.handle()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// run runs a program in a namespace and returns what it prints.
func run(t testing.TB, ns *Namespace, stdin, name string, args ...string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() (err error) {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s %s: %v\n%.2000s%.2000s", name, strings.Join(args, " "), err, stdin, out)
	}
	return string(out)
}

func ip(t testing.TB, ns *Namespace, lines ...string) {
	t.Helper()
	run(t, ns, strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

// workload makes a namespace on a host as a container runtime does, reachable at the
// given addresses.
func workload(t testing.TB, host *Namespace, bridge string, addresses ...string) *Namespace {
	t.Helper()
	w := scratch(t)
	cable(t, w, "eth0", host, "veth-web")
	ip(t, host, "link set veth-web master "+bridge+" up")
	run(t, w, "0", "sh", "-c", "cat > /proc/sys/net/ipv6/conf/eth0/accept_dad") // or its address would be late
	lines := []string{"link set lo up", "link set eth0 address 02:77:00:00:00:50 up"}
	for _, a := range addresses {
		nodad := ""
		if strings.Contains(a, ":") {
			nodad = " nodad"
		}
		lines = append(lines, "addr add "+a+" dev eth0"+nodad)
	}
	ip(t, w, lines...)
	awaitLink(t, w, "eth0")
	run(t, w, "1", "sh", "-c", "cat > /proc/sys/net/ipv6/conf/eth0/accept_dad")
	return w
}

func awaitLink(t testing.TB, ns *Namespace, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h := handleIn(t, ns)
	_, err := awaitUp(ctx, func() (netlink.Link, error) { return h.LinkByName(name) })
	must(t, err)
}

// serve answers every datagram to port 7 with the name of the place.
func serve(t testing.TB, ns *Namespace, place string) {
	t.Helper()
	var c net.PacketConn
	err := ns.Do(func() (err error) {
		c, err = net.ListenPacket("udp", ":7")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo([]byte(place), from)
		}
	}()
}

// asker asks who answers at an address.
type asker struct{ net.Conn }

func newAsker(t testing.TB, ns *Namespace, address string) asker {
	t.Helper()
	var c net.Conn
	err := ns.Do(func() (err error) {
		c, err = net.Dial("udp", net.JoinHostPort(address, "7"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return asker{c}
}

// ask returns the place that answers, "" for nobody within the time.
func (a asker) ask(t testing.TB, patience time.Duration) string {
	t.Helper()
	if _, err := a.Write([]byte("?")); err != nil {
		return ""
	}
	a.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	n, err := a.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func describe(t testing.TB, ns, host *Namespace) Description {
	t.Helper()
	d, found, err := Describe(ns, host)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Blockers) > 0 {
		t.Fatalf("blockers: %v", found.Blockers)
	}
	return overTheWire(t, d)
}

// overTheWire returns what arrives at a peer, which has to be valid.
func overTheWire(t testing.TB, d Description) Description {
	t.Helper()
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var got Description
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if err := got.Validate(); err != nil {
		t.Fatal(err)
	}
	return got
}

func (n *lan) target() *Target {
	return &Target{ID: migrate.NewID(), Host: n.b, Bridges: map[string]string{bridgeA: bridgeB, "uplink": "uplink"}}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// view is what ip(8) says of a namespace, but for what a move cannot keep: numbers of the
// links at the other ends, carrier and statistics of links, and lifetimes as they go.
func view(t testing.TB, ns *Namespace) string {
	t.Helper()
	var b strings.Builder
	for _, what := range []string{
		"-d link", "addr", "route show table all", "-6 route show table all",
		"rule", "-6 rule", "neigh show nud permanent", "neigh show proxy", "-6 neigh show proxy",
	} {
		var list []map[string]any
		out := run(t, ns, "", "ip", append([]string{"-j"}, strings.Fields(what)...)...)
		if strings.TrimSpace(out) == "" {
			out = "[]"
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatalf("ip %s: %v\n%s", what, err, out)
		}
		for _, o := range list {
			fmt.Fprintln(&b, what, essence(o))
		}
	}
	return b.String()
}

// essence prints an object without what a move cannot keep.
func essence(o map[string]any) string {
	for _, key := range []string{"link_index", "link_netnsid", "link", "operstate", "flags", "nodad", "tentative", "expires", "cache", "qdisc", "linkmode", "protinfo"} {
		delete(o, key)
	}
	for key := range o {
		if strings.HasSuffix(key, "_life_time") {
			o[key] = o[key].(float64) > 4e9
		}
		if nested, ok := o[key].([]any); ok && (key == "addr_info" || key == "nexthops") {
			for i := range nested {
				nested[i] = essence(nested[i].(map[string]any))
			}
		}
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(o)) {
		fmt.Fprintf(&b, " %s=%v", key, o[key])
	}
	return b.String()
}

func netipPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// noTentative fails the test if an address waits for the search for duplicates.
func noTentative(t testing.TB, ns *Namespace) {
	t.Helper()
	if got := run(t, ns, "", "ip", "-6", "addr", "show", "tentative"); got != "" {
		t.Errorf("addresses that cannot be used yet: %s", got)
	}
}
