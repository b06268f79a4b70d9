package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrate"
)

// routes returns the routes that somebody set, or a router advertised. Those of
// the kernel itself come with addresses and links.
func routes(ns *Namespace, h *netlink.Handle, names map[int]string) ([]Route, []migrate.Finding, error) {
	var list []Route
	var odd []migrate.Finding
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		got, err := dump(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, nil, fmt.Errorf("list routes: %w", err)
		}
		for _, k := range got {
			if k.Protocol == unix.RTPROT_KERNEL || k.Protocol == unix.RTPROT_REDIRECT {
				continue
			}
			if what := unmovable(k); what != "" {
				odd = append(odd, migrate.Finding{
					Code:   CodeRoute,
					What:   fmt.Sprintf("route to %s uses %s, which cannot be moved", k.Dst, what),
					Advice: "remove the route, or set it again after the move",
				})
				continue
			}
			list = append(list, routeOf(k, names))
		}
	}
	return list, odd, expiries(ns, list, names)
}

func unmovable(k netlink.Route) string {
	special := func(e netlink.Encap, d netlink.Destination) bool { return e != nil || d != nil }
	switch {
	case special(k.Encap, k.NewDst), k.MPLSDst != nil,
		slices.ContainsFunc(k.MultiPath, func(n *netlink.NexthopInfo) bool { return special(n.Encap, n.NewDst) }):
		return "an encapsulation"
	}
	return ""
}

func routeOf(k netlink.Route, names map[int]string) Route {
	r := Route{
		Dst:      prefixOf(k.Dst),
		Link:     names[k.LinkIndex],
		Gateway:  gatewayOf(addrOf(k.Gw), k.Via),
		Source:   addrOf(k.Src),
		Table:    k.Table,
		Metric:   k.Priority,
		Type:     k.Type,
		Scope:    int(k.Scope),
		Protocol: int(k.Protocol),
		TOS:      k.Tos,
		OnLink:   k.Flags&unix.RTNH_F_ONLINK != 0,
		Metrics:  metricsOf(k),
	}
	for _, n := range k.MultiPath {
		r.Hops = append(r.Hops, Hop{
			Link:    names[n.LinkIndex],
			Gateway: gatewayOf(addrOf(n.Gw), n.Via),
			Weight:  n.Hops + 1,
			OnLink:  n.Flags&unix.RTNH_F_ONLINK != 0,
		})
	}
	return r
}

func gatewayOf(gw netip.Addr, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok {
		return addrOf(v.Addr)
	}
	return gw
}

func metricsOf(k netlink.Route) Metrics {
	return Metrics{
		MTU: k.MTU, MTULock: k.MTULock, AdvMSS: k.AdvMSS, Window: k.Window, RTT: k.Rtt, RTTVar: k.RttVar,
		SSThresh: k.Ssthresh, Cwnd: k.Cwnd, InitCwnd: k.InitCwnd, InitRwnd: k.InitRwnd, Reordering: k.Reordering,
		HopLimit: k.Hoplimit, Features: k.Features, RTOMin: k.RtoMin, RTOMinLock: k.RtoMinLock, QuickACK: k.QuickACK,
		Congestion: k.Congctl, NoTFOCookie: k.FastOpenNoCookie, Realm: k.Realm,
	}
}

// kernel returns the route as it is to be set, in a namespace whose links have
// these numbers.
func (r Route) kernel(index map[string]int) *netlink.Route {
	m := r.Metrics
	k := &netlink.Route{
		Dst: netOf(r.Dst), LinkIndex: index[r.Link], Src: ipOf(r.Source), Family: family(r.Dst),
		Table: r.Table, Priority: r.Metric, Type: r.Type, Scope: netlink.Scope(r.Scope),
		Protocol: netlink.RouteProtocol(r.Protocol), Tos: r.TOS,
		MTU: m.MTU, MTULock: m.MTULock, AdvMSS: m.AdvMSS, Window: m.Window, Rtt: m.RTT, RttVar: m.RTTVar,
		Ssthresh: m.SSThresh, Cwnd: m.Cwnd, InitCwnd: m.InitCwnd, InitRwnd: m.InitRwnd, Reordering: m.Reordering,
		Hoplimit: m.HopLimit, Features: m.Features, RtoMin: m.RTOMin, RtoMinLock: m.RTOMinLock, QuickACK: m.QuickACK,
		Congctl: m.Congestion, FastOpenNoCookie: m.NoTFOCookie, Realm: m.Realm,
	}
	k.Gw, k.Via = r.gateway(r.Gateway)
	k.Flags = onLink(r.OnLink)
	for _, hop := range r.Hops {
		n := &netlink.NexthopInfo{LinkIndex: index[hop.Link], Hops: hop.Weight - 1, Flags: onLink(hop.OnLink)}
		n.Gw, n.Via = r.gateway(hop.Gateway)
		k.MultiPath = append(k.MultiPath, n)
	}
	return k
}

func onLink(on bool) int {
	if on {
		return unix.RTNH_F_ONLINK
	}
	return 0
}

// gateway returns a gateway as RTA_GATEWAY, or as RTA_VIA if it is of the other
// version of IP.
func (r Route) gateway(a netip.Addr) ([]byte, netlink.Destination) {
	if !a.IsValid() || a.Is6() == r.Dst.Addr().Is6() {
		return ipOf(a), nil
	}
	return nil, &netlink.Via{AddrFamily: unix.AF_INET6, Addr: ipOf(a)}
}

func family(p netip.Prefix) int {
	if p.Addr().Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// addRoutes sets routes, those that reach a gateway through another route after
// that.
func addRoutes(ns *Namespace, h *netlink.Handle, list []Route, index map[string]int) error {
	for {
		var later []Route
		var failed []error
		for _, r := range list {
			if err := addRoute(ns, h, r, index); err != nil {
				later = append(later, r)
				failed = append(failed, fmt.Errorf("add route to %s in table %d: %w", r.Dst, r.Table, err))
			}
		}
		if len(later) == 0 || len(later) == len(list) {
			return errors.Join(failed...)
		}
		list = later
	}
}

func addRoute(ns *Namespace, h *netlink.Handle, r Route, index map[string]int) error {
	if r.Expires != 0 {
		return addExpiring(ns, r, index)
	}
	// Append, because equal prefixes may differ in what RTM_NEWROUTE calls equal.
	err := h.RouteAppend(r.kernel(index))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
