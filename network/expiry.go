package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tick is how many units of a lifetime in struct rta_cacheinfo make a second: USER_HZ.
const tick = 100

// routeKey tells routes apart that routers advertise.
type routeKey struct {
	dst     netip.Prefix
	link    string
	gateway netip.Addr
	table   int
	metric  int
}

func (r Route) key() routeKey { return routeKey{r.Dst, r.Link, r.Gateway, r.Table, r.Metric} }

// expiries adds the seconds left to IPv6 routes that end by themselves, as those do
// that a router advertised. The library does not know of them.
func expiries(ns *Namespace, list []Route, names map[int]string) error {
	left := map[routeKey]int{}
	err := ns.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET6}})
		msgs, err := dump(func() ([][]byte, error) { return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE) })
		for _, m := range msgs {
			if key, seconds := expiry(m, names); seconds > 0 {
				left[key] = seconds
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list lifetimes of routes: %w", err)
	}
	for i := range list {
		list[i].Expires = left[list[i].key()]
	}
	return nil
}

func expiry(m []byte, names map[int]string) (key routeKey, seconds int) {
	msg := nl.DeserializeRtMsg(m)
	attrs, err := nl.ParseRouteAttr(m[msg.Len():])
	if err != nil {
		return routeKey{}, 0
	}
	key.dst, key.table = netip.PrefixFrom(netip.IPv6Unspecified(), 0), int(msg.Table)
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_DST:
			key.dst = netip.PrefixFrom(addrOf(a.Value), int(msg.Dst_len))
		case unix.RTA_GATEWAY:
			key.gateway = addrOf(a.Value)
		case unix.RTA_OIF:
			key.link = names[int(binary.NativeEndian.Uint32(a.Value))]
		case unix.RTA_TABLE:
			key.table = int(binary.NativeEndian.Uint32(a.Value))
		case unix.RTA_PRIORITY:
			key.metric = int(binary.NativeEndian.Uint32(a.Value))
		case unix.RTA_CACHEINFO: // rta_clntref, rta_lastuse, rta_expires
			seconds = int(int32(binary.NativeEndian.Uint32(a.Value[8:]))) / tick
		}
	}
	return key, seconds
}

// addExpiring sets an IPv6 route that ends by itself unless a router renews it.
func addExpiring(ns *Namespace, r Route, index map[string]int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND|unix.NLM_F_ACK)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{
		Family: unix.AF_INET6, Dst_len: uint8(r.Dst.Bits()), Protocol: uint8(r.Protocol), Type: uint8(r.Type),
		Scope: uint8(r.Scope), Flags: uint32(onLink(r.OnLink)),
	}})
	number := func(attr int, v int) { req.AddData(nl.NewRtAttr(attr, nl.Uint32Attr(uint32(v)))) }
	req.AddData(nl.NewRtAttr(unix.RTA_DST, r.Dst.Addr().AsSlice()))
	if r.Gateway.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, r.Gateway.AsSlice()))
	}
	number(unix.RTA_OIF, index[r.Link])
	number(unix.RTA_TABLE, r.Table)
	number(unix.RTA_PRIORITY, r.Metric)
	number(unix.RTA_EXPIRES, r.Expires)
	return ns.Do(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}
