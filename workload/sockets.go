package workload

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// readInet reads the TCP and UDP sockets that dir, a /proc/PID/net, lists. A
// table that is missing, for a kernel without IPv6 say, has no sockets.
func readInet(dir string) map[uint64]Inet {
	all := map[uint64]Inet{}
	for _, proto := range []string{"tcp", "udp"} {
		for _, version := range []string{"", "6"} {
			b, err := os.ReadFile(dir + "/" + proto + version)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				if inode, s, ok := parseInet(proto, line); ok {
					all[inode] = s
				}
			}
		}
	}
	return all
}

// parseInet reads a line of /proc/net/tcp: slot, local, remote, state, … with
// the inode in the tenth field. A closed connection that waits has inode 0.
func parseInet(proto, line string) (inode uint64, s Inet, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return 0, Inet{}, false
	}
	local, ok1 := parseAddress(f[1])
	remote, ok2 := parseAddress(f[2])
	state, err1 := strconv.ParseInt(f[3], 16, 32)
	inode, err2 := strconv.ParseUint(f[9], 10, 64)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || inode == 0 {
		return 0, Inet{}, false
	}
	return inode, Inet{Proto: proto, Local: local.String(), Remote: remote.String(), State: int(state)}, true
}

// parseAddress reads "0100007F:1F90": words of the address in the byte order
// of this machine, the port in that of people.
func parseAddress(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok
}

// localAddresses returns the addresses of our own network namespace.
func localAddresses() map[netip.Addr]bool {
	local := map[netip.Addr]bool{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return local
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			local[p.Addr().Unmap()] = true
		}
	}
	return local
}
