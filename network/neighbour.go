package network

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// neighbours returns the entries of the neighbour tables that were set by hand.
func neighbours(h *netlink.Handle, names map[int]string) ([]Neighbour, error) {
	var list []Neighbour
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		static, err := dump(func() ([]netlink.Neigh, error) { return h.NeighList(0, family) })
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		proxied, err := dump(func() ([]netlink.Neigh, error) { return h.NeighProxyList(0, family) })
		if err != nil {
			return nil, fmt.Errorf("list proxied neighbours: %w", err)
		}
		for _, k := range append(static, proxied...) {
			proxy := k.Flags&netlink.NTF_PROXY != 0
			if k.State&netlink.NUD_PERMANENT == 0 && !proxy {
				continue
			}
			list = append(list, Neighbour{
				Link: names[k.LinkIndex], IP: addrOf(k.IP), MAC: k.HardwareAddr.String(), Proxy: proxy,
				Flags: k.Flags & (netlink.NTF_ROUTER | netlink.NTF_PROXY),
			})
		}
	}
	return list, nil
}

func addNeighbours(h *netlink.Handle, list []Neighbour, index map[string]int) error {
	for _, n := range list {
		k := &netlink.Neigh{
			LinkIndex: index[n.Link], IP: ipOf(n.IP), State: netlink.NUD_PERMANENT, Flags: n.Flags,
			Family: unix.AF_INET,
		}
		if n.IP.Is6() {
			k.Family = unix.AF_INET6
		}
		if n.MAC != "" {
			mac, err := net.ParseMAC(n.MAC)
			if err != nil {
				return err
			}
			k.HardwareAddr = mac
		}
		if err := h.NeighSet(k); err != nil {
			return fmt.Errorf("add neighbour %s of %s: %w", n.IP, n.Link, err)
		}
	}
	return nil
}
