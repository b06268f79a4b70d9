package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of a description from a peer. A namespace that is beyond them is refused.
const (
	maxLinks         = 64
	maxAddresses     = 1024 // of all links
	maxRoutes        = 16384
	maxRules         = 4096
	maxNeighbours    = 4096
	maxVLANs         = 4094
	maxHops          = 256
	maxFirewall      = 65536
	maxFirewallBytes = 8 << 20
	maxAlias         = 255 // IFALIASZ less its end
	maxIndex         = 1<<31 - 1
)

// Validate checks a description from a peer, and reports every kind of problem: a
// name that the kernel could not have, a number out of its range, a reference to a link
// that is not described, more of anything than is reasonable.
func (d Description) Validate() error {
	v := validator{names: map[string]bool{}, indexes: map[int]bool{}}
	v.limit("links", len(d.Links), maxLinks)
	v.limit("routes", len(d.Routes), maxRoutes)
	v.limit("routing rules", len(d.Rules), maxRules)
	v.limit("neighbours", len(d.Neighbours), maxNeighbours)
	v.limit("firewall messages", len(d.Firewall), maxFirewall)
	if v.errs != nil {
		return v.result()
	}
	for _, l := range d.Links {
		v.link(l)
	}
	for _, r := range d.Routes {
		v.route(r)
	}
	for _, r := range d.Rules {
		v.rule(r)
	}
	for _, n := range d.Neighbours {
		v.known("neighbour", n.Link)
		v.check(n.IP.IsValid() && n.IP.Zone() == "", "a neighbour's address is not one")
		v.mac("neighbour", n.MAC)
	}
	v.sysctls(d.Sysctls, sysctlNames)
	v.firewall(d.Firewall)
	return v.result()
}

// validator gathers problems, one of a kind.
type validator struct {
	names     map[string]bool
	indexes   map[int]bool
	addresses int
	errs      []error
}

func (v *validator) result() error {
	if v.errs == nil {
		return nil
	}
	return fmt.Errorf("network description: %w", errors.Join(v.errs...))
}

func (v *validator) check(ok bool, format string, args ...any) {
	const enough = 16 // problems to tell of
	if !ok && len(v.errs) < enough {
		v.errs = append(v.errs, fmt.Errorf(format, args...))
	}
}

func (v *validator) limit(what string, n, most int) {
	v.check(n <= most, "%d %s, at most %d are moved", n, what, most)
}

func (v *validator) within(what string, n, low, high int) {
	v.check(low <= n && n <= high, "%s: %d is not between %d and %d", what, n, low, high)
}

// validName reports whether the kernel takes a name for a link (dev_valid_name in
// net/core/dev.c), and whether it can be printed.
func validName(name string) bool {
	plain := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == ':' || r == '%' }
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && !strings.ContainsFunc(name, plain)
}

func (v *validator) known(what, link string) {
	v.check(link == "" || v.names[link], "%s on a link %.20q that is not described", what, link)
}

func (v *validator) mac(what, mac string) {
	_, err := net.ParseMAC(mac)
	v.check(mac == "" || err == nil && len(mac) == len("00:00:00:00:00:00"), "%s: %.40q is not a MAC address", what, mac)
}

func (v *validator) text(what, s string, most int) {
	v.check(len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }),
		"%s: %.40q is too long or not text", what, s)
}

func (v *validator) link(l Link) {
	v.check(validName(l.Name) && l.Name != "all" && l.Name != "default", "%.40q is not a name for a link", l.Name)
	v.check(!v.names[l.Name] && !v.indexes[l.Index], "two links are called %.20q or have number %d", l.Name, l.Index)
	v.names[l.Name], v.indexes[l.Index] = true, true
	v.check((l.Kind == KindLoopback) == (l.Name == "lo"), "link %.20q is of kind %.20q", l.Name, l.Kind)
	v.within("number of a link", l.Index, 1, maxIndex)
	v.within("MTU", l.MTU, 68, 65536)
	v.within("transmit queue", l.TxQueue, 0, maxIndex)
	v.text("alias", l.Alias, maxAlias)
	v.mac("link", l.MAC)
	v.place(l)
	v.addresses += len(l.Addresses)
	v.limit("addresses", v.addresses, maxAddresses)
	for _, a := range l.Addresses[:min(len(l.Addresses), maxAddresses)] {
		v.address(l, a)
	}
	v.sysctls(l.Sysctls, sysctlsOfLink)
}

func (v *validator) place(l Link) {
	v.check((l.Kind == KindVeth) == (l.Peer != nil), "link %.20q of kind %.20q has a peer or lacks one", l.Name, l.Kind)
	switch l.Kind {
	case KindLoopback, KindDummy, KindVeth:
		v.check(l.Parent == "" && l.Mode == 0 && l.Flags == 0, "link %.20q has a parent", l.Name)
	case KindMacvlan, KindIPVlan:
		v.check(validName(l.Parent), "%.40q is not a name for a link", l.Parent)
		v.within("mode of a link", l.Mode, 0, 4)
		v.within("flags of a link", l.Flags, 0, 2)
	default:
		v.check(false, "link %.20q is of a kind that does not move: %.20q", l.Name, l.Kind)
	}
	if p := l.Peer; p != nil {
		v.check(validName(p.Name) && validName(p.Bridge), "%.40q or %.40q is not a name for a link", p.Name, p.Bridge)
		v.within("MTU", p.MTU, 68, 65536)
		v.within("transmit queue", p.TxQueue, 0, maxIndex)
		v.limit("VLANs", len(p.VLANs), maxVLANs)
		for _, vlan := range p.VLANs[:min(len(p.VLANs), maxVLANs)] {
			v.within("VLAN", int(vlan.ID), 1, 4094)
		}
	}
}

func (v *validator) prefix(what string, p netip.Prefix) {
	v.check(p.IsValid() && !p.Addr().Is4In6() && p.Addr().Zone() == "", "%s: not an address with a prefix", what)
}

func (v *validator) address(l Link, a Address) {
	v.prefix("address", a.Prefix)
	v.check(!a.Prefix.Addr().IsMulticast() && !a.Prefix.Addr().IsUnspecified(), "%s is not a host's address", a.Prefix)
	if a.Peer.IsValid() {
		v.prefix("peer of an address", a.Peer)
		v.check(a.Peer.Addr().BitLen() == a.Prefix.Addr().BitLen(), "%s has a peer of the other version of IP", a.Prefix)
	}
	v.check(!a.Broadcast.IsValid() || a.Broadcast.Is4() && a.Prefix.Addr().Is4(), "%s is no broadcast address of %s", a.Broadcast, a.Prefix)
	v.check(a.Label == "" || len(a.Label) < unix.IFNAMSIZ && strings.HasPrefix(a.Label, l.Name), "%.40q is not a label on %s", a.Label, l.Name)
	v.text("label", a.Label, unix.IFNAMSIZ)
	v.within("scope of an address", a.Scope, 0, 255)
	v.check(a.Flags&^settable == 0, "address flags %#x", a.Flags)
	v.check(a.Valid > 0 && a.Preferred <= a.Valid, "lifetimes %d and %d of an address", a.Preferred, a.Valid)
}

func (v *validator) route(r Route) {
	v.prefix("route", r.Dst)
	v.known("route", r.Link)
	for _, a := range []netip.Addr{r.Gateway, r.Source} {
		v.check(!a.IsValid() || a.Zone() == "" && !a.Is4In6(), "route has %s in it", a)
	}
	v.check(!r.Source.IsValid() || r.Source.Is4() == r.Dst.Addr().Is4(), "route to %s from %s", r.Dst, r.Source)
	v.check(!r.Gateway.IsValid() || r.Gateway.Is6() || r.Dst.Addr().Is4(), "route to %s by %s", r.Dst, r.Gateway)
	v.limit("ways of a route", len(r.Hops), maxHops)
	for _, h := range r.Hops[:min(len(r.Hops), maxHops)] {
		v.known("route", h.Link)
		v.within("weight of a route", h.Weight, 1, 256)
		v.check(!h.Gateway.IsValid() || h.Gateway.Zone() == "" && (h.Gateway.Is6() || r.Dst.Addr().Is4()), "route to %s by %s", r.Dst, h.Gateway)
	}
	for _, n := range []int{r.Type, r.Scope, r.Protocol, r.TOS} {
		v.within("a number of a route", n, 0, 255)
	}
	m := r.Metrics
	for _, n := range []int{r.Table, r.Metric, m.MTU, m.AdvMSS, m.Window, m.RTT, m.RTTVar, m.SSThresh, m.Cwnd, m.InitCwnd,
		m.InitRwnd, m.Reordering, m.HopLimit, m.Features, m.RTOMin, m.QuickACK, m.NoTFOCookie, m.Realm, r.Expires} {
		v.within("a number of a route", n, 0, 1<<32-1)
	}
	v.check(r.Expires == 0 || r.Dst.Addr().Is6(), "IPv4 route to %s expires", r.Dst)
	v.text("congestion control", m.Congestion, 15)
}

func (v *validator) rule(r Rule) {
	for _, p := range []netip.Prefix{r.Src, r.Dst} {
		v.check(!p.IsValid() || p.Addr().Is6() == r.IPv6 && p.Addr().Zone() == "", "routing rule for %s", p)
	}
	for _, name := range []string{r.In, r.Out} {
		v.check(name == "" || validName(name), "routing rule for link %.40q", name)
	}
	for _, n := range []int{r.Priority, r.Table, r.Goto + 1, r.Flow + 1, r.SuppressGroup + 1, r.SuppressPrefixLen + 1} {
		v.within("a number of a routing rule", n, 0, 1<<32)
	}
	v.within("a number of a routing rule", int(r.TOS), 0, 255)
	v.within("protocol of a routing rule", r.IPProto, 0, 255)
	for _, p := range []Range{r.SrcPorts, r.DstPorts} {
		v.check(p.First <= p.Last && p.Last <= 65535, "ports %d to %d", p.First, p.Last)
	}
}

// sysctls lets only settings pass that are known to be harmless for the host, with
// values of the shape that such have.
func (v *validator) sysctls(got map[string]string, allowed []string) {
	v.limit("settings", len(got), len(allowed))
	for name, value := range got {
		v.check(slices.Contains(allowed, name), "setting %.60q does not move", name)
		odd := func(r rune) bool { return !strings.ContainsRune(" \t-_,.:", r) && !alphanumeric(r) }
		v.check(len(value) < maxSysctl && !strings.ContainsFunc(value, odd), "setting %.60q is %.60q", name, value)
	}
}

func alphanumeric(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// firewall lets only attributes pass that a listing of our own would have. What is
// in them the kernel checks, for which they mean no more than those of a container
// that may set its own rules.
func (v *validator) firewall(list []Message) {
	total := 0
	for _, m := range list {
		total += len(m.Data)
		o, ok := objectOf(m.Type)
		v.check(ok && len(m.Data) < 1<<16-16, "firewall message of type %d, %d bytes", m.Type, len(m.Data))
		parts := attributes(m.Data)
		table := tableOf(parts)
		v.check(validTable(table), "firewall table %.40q", table)
		for _, a := range parts {
			v.check(slices.Contains(o.attributes, attrType(a)), "firewall message of type %d with attribute %d", m.Type, attrType(a))
		}
	}
	v.limit("bytes of firewall rules", total, maxFirewallBytes)
}

// validTable reports whether a workload's table may have this name: not that of a lock.
func validTable(name string) bool {
	return name != "" && len(name) < unix.NFT_TABLE_MAXNAMELEN && !isLock(name)
}
