package network

import (
	"encoding/binary"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// stp reports whether a bridge uses the spanning tree protocol, which the library
// does not tell.
func stp(ns *Namespace, index int) bool {
	on := false
	_ = ns.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(index)
		req.AddData(msg)
		got, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		for _, m := range got {
			on = on || bridgeNumber(m[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, nl.IFLA_BR_STP_STATE) != 0
		}
		return err
	})
	return on
}

// bridgeNumber follows a path of nested attributes to a number of 32 bits; 0 if there is none.
func bridgeNumber(b []byte, path ...uint16) uint32 {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return 0
	}
	for _, a := range list {
		if a.Attr.Type&^unix.NLA_F_NESTED != path[0] {
			continue
		}
		if len(path) > 1 {
			return bridgeNumber(a.Value, path[1:]...)
		}
		if len(a.Value) >= 4 {
			return binary.NativeEndian.Uint32(a.Value)
		}
	}
	return 0
}
