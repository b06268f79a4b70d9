package network

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settable are the flags of an address that a user gives it; the others are the
// kernel's.
const settable = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

// addresses returns those of every link, by the link's index.
func addresses(h *netlink.Handle) (map[int][]Address, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byLink := map[int][]Address{}
	for _, a := range list {
		if a.Flags&unix.IFA_F_DADFAILED == 0 { // such a one is somebody else's
			byLink[a.LinkIndex] = append(byLink[a.LinkIndex], addressOf(a))
		}
	}
	return byLink, nil
}

func addressOf(a netlink.Addr) Address {
	flags := a.Flags & settable
	if a.IP.To4() == nil {
		flags &^= unix.IFA_F_NODAD // every move sets it, and a third one shall not find a difference
	}
	return Address{
		Prefix:    prefixOf(a.IPNet),
		Peer:      prefixOf(a.Peer),
		Broadcast: addrOf(a.Broadcast),
		Label:     a.Label,
		Scope:     a.Scope,
		Flags:     flags,
		Preferred: uint32(a.PreferedLft),
		Valid:     uint32(a.ValidLft),
	}
}

// kernel returns the address as it is to be set. IPv6 addresses skip the detection
// of duplicates, which would keep them from use for a second or more; that no
// other host has them is what the whole migration is about.
func (a Address) kernel(index int) *netlink.Addr {
	k := &netlink.Addr{
		IPNet:       netOf(a.Prefix),
		Peer:        netOf(a.Peer),
		Broadcast:   cmp.Or(a.Broadcast, netip.IPv4Unspecified()).AsSlice(),
		Label:       a.Label,
		Scope:       a.Scope,
		Flags:       a.Flags,
		PreferedLft: int(a.Preferred),
		ValidLft:    int(a.Valid),
		LinkIndex:   index,
	}
	if a.Prefix.Addr().Is6() {
		k.Flags |= unix.IFA_F_NODAD
		k.Broadcast = nil
	}
	return k
}

// addAddresses gives a link its addresses, each version of IP in the order in which the
// kernel lists them as before: the first of equals is what it sends from. It puts
// a new IPv6 address ahead of others. Those that the kernel gave lo by itself are there.
func addAddresses(h *netlink.Handle, l Link, index int) error {
	list := slices.Clone(l.Addresses)
	slices.Reverse(list)
	slices.SortStableFunc(list, func(a, b Address) int { return a.Prefix.Addr().BitLen() - b.Prefix.Addr().BitLen() })
	v6 := slices.IndexFunc(list, func(a Address) bool { return a.Prefix.Addr().Is6() })
	if v6 < 0 {
		v6 = len(list)
	}
	slices.Reverse(list[:v6])
	for _, a := range list {
		if err := h.AddrAdd(nil, a.kernel(index)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", a.Prefix, err)
		}
	}
	return nil
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

func netOf(p netip.Prefix) *net.IPNet {
	if !p.IsValid() {
		return nil
	}
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ipOf(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}
