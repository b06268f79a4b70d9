package network

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// xtInfo is struct ipt_getinfo and ip6t_getinfo (linux/netfilter_ipv4/ip_tables.h).
type xtInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	entries    uint32
	size       uint32
}

// xtGetInfo is IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const xtGetInfo = 64

// readLegacy finds rules of iptables-legacy, which the kernel keeps apart from
// nftables.
func (r *reader) readLegacy() error {
	return r.ns.Do(func() error {
		for _, v := range []struct {
			list          string
			domain, level int
		}{
			{"ip_tables_names", unix.AF_INET, unix.IPPROTO_IP},
			{"ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6},
		} {
			names, err := os.ReadFile("/proc/thread-self/net/" + v.list)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			for _, name := range strings.Fields(string(names)) {
				n, err := legacyRules(name, v.domain, v.level)
				if err != nil {
					return fmt.Errorf("look at table %s of iptables: %w", name, err)
				}
				if n > 0 {
					r.found.block(CodeFirewall, "use iptables-nft or nftables in the namespace, or remove the rules",
						"table %s of iptables-legacy has %d rules, which cannot be moved", name, n)
				}
			}
		}
		return nil
	})
}

// legacyRules returns how many entries a table has beyond those of an empty one: a
// policy for each hook, and the end.
func legacyRules(table string, domain, level int) (int, error) {
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var info xtInfo
	copy(info.name[:], table)
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), xtGetInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(info.entries) - bits.OnesCount32(info.validHooks) - 1, nil
}
