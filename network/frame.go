package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

const macLen = 6

// ARP operations (RFC 826).
const (
	arpRequest = 1
	arpReply   = 2
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ethernet returns a frame with its header; the kernel pads it.
func ethernet(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	b := slices.Concat(to, from)
	b = binary.BigEndian.AppendUint16(b, kind)
	return append(b, payload...)
}

// gratuitousARP says that ip is at mac, as a question or as an answer that nobody
// asked for: some heed only the one, some only the other (RFC 5227 §3).
func gratuitousARP(mac net.HardwareAddr, ip netip.Addr, operation byte) []byte {
	to := make(net.HardwareAddr, macLen)
	if operation == arpReply {
		to = mac
	}
	const ethernetIPv4 = "\x00\x01\x08\x00\x06\x04" // types and lengths of both kinds of address
	return ethernet(broadcast, mac, unix.ETH_P_ARP, slices.Concat(
		[]byte(ethernetIPv4), []byte{0, operation}, mac, ip.AsSlice(), to, ip.AsSlice()))
}

// neighbourAdvertisement says the same of an IPv6 address to all nodes of the link
// (RFC 4861 §4.4), overriding what they know.
func neighbourAdvertisement(mac net.HardwareAddr, ip netip.Addr, router bool) []byte {
	const advertisement, override, routerFlag, targetLinkAddress, hopLimit = 136, 0x20, 0x80, 2, 255
	flags := byte(override)
	if router {
		flags |= routerFlag
	}
	message := slices.Concat(
		[]byte{advertisement, 0, 0, 0, flags, 0, 0, 0}, ip.AsSlice(),
		[]byte{targetLinkAddress, 1}, mac)
	all := netip.IPv6LinkLocalAllNodes()
	binary.BigEndian.PutUint16(message[2:], icmp6Checksum(ip, all, message))
	header := []byte{6 << 4, 0, 0, 0, 0, byte(len(message)), unix.IPPROTO_ICMPV6, hopLimit}
	return ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6,
		slices.Concat(header, ip.AsSlice(), all.AsSlice(), message))
}

// icmp6Checksum is the Internet checksum over the pseudo-header of RFC 8200 §8.1 and the
// message.
func icmp6Checksum(from, to netip.Addr, message []byte) uint16 {
	pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, 0, 0, byte(len(message)), 0, 0, 0, unix.IPPROTO_ICMPV6})
	var sum uint32
	for b := append(pseudo, message...); len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
