package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"migrate"
)

// lockPrefix begins the names of our tables; a migration's ID follows.
const lockPrefix = "migrate-"

// criuPrefix begins the names of the tables that CRIU locks connections with
// (criu/netfilter.c).
const criuPrefix = "CRIU-"

// criuMark is set on the packets that CRIU sends over lo to bring a half-closed
// connection into its state (SOCCR_MARK, soccr/soccr.h). They pass a lock.
const criuMark = 0xc114

// Hooks of the arp family (linux/netfilter_arp.h); they are counted by themselves.
const (
	arpIn  = 0
	arpOut = 1
)

// Lock keeps every packet out of and in a namespace: IP, ARP, neighbour discovery,
// loopback; nothing is answered, and so nothing is refused. It lasts until
// [Unlock], beyond the end of this process. Locking twice is locking once.
//
// It takes effect for packets from now on; those that are being handled on
// another processor may still pass.
func Lock(ns *Namespace, id migrate.ID) error {
	c, err := firewall(ns)
	if err != nil {
		return err
	}
	ip := fresh(c, nftables.TableFamilyINet, id)
	// Dropping ahead of everything leaves connection tracking as it is. The input hook
	// meets what had passed the first one when the lock came.
	for _, h := range []struct {
		hook *nftables.ChainHook
		name string
		lo   expr.MetaKey
	}{
		{nftables.ChainHookPrerouting, "prerouting", expr.MetaKeyIIFNAME},
		{nftables.ChainHookInput, "input", expr.MetaKeyIIFNAME},
		{nftables.ChainHookForward, "forward", 0},
		{nftables.ChainHookOutput, "output", expr.MetaKeyOIFNAME},
	} {
		chain := dropping(c, ip, h.name, h.hook)
		if h.lo != 0 {
			c.AddRule(&nftables.Rule{Table: ip, Chain: chain, Exprs: acceptCRIU(h.lo)})
		}
	}
	arp := fresh(c, nftables.TableFamilyARP, id)
	dropping(c, arp, "input", nftables.ChainHookRef(arpIn))
	dropping(c, arp, "output", nftables.ChainHookRef(arpOut))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("lock the network namespace: %w", err)
	}
	return nil
}

// Warm returns an empty locked namespace to hold while a migration is prepared, and to
// close after it. On a host without any firewall the first lock has the kernel patch
// its hooks into its code, which takes some 5 ms; with it in place that is over
// before the workload is frozen.
func Warm() (*Namespace, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	if err := Lock(ns, migrate.NewID()); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

func firewall(ns *Namespace) (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(ns.Fd()))
	if err != nil {
		return nil, fmt.Errorf("open an nftables socket: %w", err)
	}
	return c, nil
}

// fresh makes the migration's table anew: in one transaction, so that a lock which is
// made again is never open.
func fresh(c *nftables.Conn, family nftables.TableFamily, id migrate.ID) *nftables.Table {
	t := &nftables.Table{Family: family, Name: lockPrefix + string(id)}
	c.AddTable(t)
	c.DelTable(t)
	return c.AddTable(t)
}

func dropping(c *nftables.Conn, t *nftables.Table, name string, hook *nftables.ChainHook) *nftables.Chain {
	drop := nftables.ChainPolicyDrop
	return c.AddChain(&nftables.Chain{
		Table: t, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: first(), Policy: &drop,
	})
}

// first is the priority ahead of all others (NF_IP_PRI_FIRST).
func first() *nftables.ChainPriority { return nftables.ChainPriorityFirst }

// acceptCRIU lets CRIU's own packets over lo pass.
func acceptCRIU(lo expr.MetaKey) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{
		&expr.Meta{Key: lo, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(criuMark)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// Connection is an established TCP connection, as the namespace sees it.
type Connection struct{ Local, Remote netip.AddrPort }

// LockConnections keeps packets of these connections out of and in a namespace
// that a workload shares with others, and passes everything else. Else it is as
// [Lock], and undone by [Unlock].
func LockConnections(ns *Namespace, id migrate.ID, list []Connection) error {
	c, err := firewall(ns)
	if err != nil {
		return err
	}
	t := fresh(c, nftables.TableFamilyINet, id)
	in := c.AddChain(&nftables.Chain{
		Table: t, Name: "prerouting", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: first(),
	})
	out := c.AddChain(&nftables.Chain{
		Table: t, Name: "output", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: first(),
	})
	for _, v := range []ipVersion{ipv4, ipv6} {
		set, err := v.set(c, t, list)
		if err != nil {
			return err
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: in, Exprs: v.drop(set, v.source, v.destination, 0, 2)})
		c.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: v.drop(set, v.destination, v.source, 2, 0)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("lock %d connections: %w", len(list), err)
	}
	return nil
}

// ipVersion is where a version of IP has what tells connections apart.
type ipVersion struct {
	name                string
	proto               byte // NFPROTO_…
	length              uint32
	source, destination uint32 // offsets in the header
	kind                nftables.SetDatatype
}

var (
	ipv4 = ipVersion{"connections4", unix.NFPROTO_IPV4, 4, 12, 16, nftables.TypeIPAddr}
	ipv6 = ipVersion{"connections6", unix.NFPROTO_IPV6, 16, 8, 24, nftables.TypeIP6Addr}
)

// set makes the set of remote and local ends.
func (v ipVersion) set(c *nftables.Conn, t *nftables.Table, list []Connection) (*nftables.Set, error) {
	var elements []nftables.SetElement
	for _, conn := range list {
		remote, local := unmap(conn.Remote), unmap(conn.Local)
		if uint32(local.Addr().BitLen()) == 8*v.length && uint32(remote.Addr().BitLen()) == 8*v.length {
			elements = append(elements, nftables.SetElement{Key: slices.Concat(endpoint(remote), endpoint(local))})
		}
	}
	set := &nftables.Set{
		Table: t, Name: v.name, Concatenation: true,
		ID:      v.length, // any within the transaction; the library would count in a variable that all goroutines share
		KeyType: nftables.MustConcatSetType(v.kind, nftables.TypeInetService, v.kind, nftables.TypeInetService),
	}
	if err := c.AddSet(set, elements); err != nil {
		return nil, fmt.Errorf("list the connections to lock: %w", err)
	}
	return set, nil
}

// unmap turns an IPv4 address in IPv6 form, as a socket for both shows it, into what
// is on the wire.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// endpoint returns the key of an address and port; every part fills whole registers.
func endpoint(a netip.AddrPort) []byte {
	return append(a.Addr().AsSlice(), byte(a.Port()>>8), byte(a.Port()), 0, 0)
}

// drop drops TCP packets whose remote and local end are in the set. The offsets are
// those of the remote and local end in the header.
func (v ipVersion) drop(set *nftables.Set, remote, local, remotePort, localPort uint32) []expr.Any {
	reg := uint32(unix.NFT_REG32_00)
	var load []expr.Any
	add := func(base expr.PayloadBase, offset, length uint32) {
		load = append(load, &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length})
		reg += (length + 3) / 4
	}
	add(expr.PayloadBaseNetworkHeader, remote, v.length)
	add(expr.PayloadBaseTransportHeader, remotePort, 2)
	add(expr.PayloadBaseNetworkHeader, local, v.length)
	add(expr.PayloadBaseTransportHeader, localPort, 2)
	return slices.Concat([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{v.proto}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}, load, []expr.Any{
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set.Name, SetID: set.ID},
		&expr.Verdict{Kind: expr.VerdictDrop},
	})
}

// Unlock undoes [Lock] and [LockConnections], also those of a process that is
// gone. Without a lock it does nothing.
func Unlock(ns *Namespace, id migrate.ID) error {
	_, err := dropTables(ns, func(name string) bool { return name == lockPrefix+string(id) })
	return err
}

// Sweep removes the locks that migrations have left in a namespace, but for those
// whose ID keep tells to keep. It returns the IDs of those removed.
func Sweep(ns *Namespace, keep func(migrate.ID) bool) ([]migrate.ID, error) {
	names, err := dropTables(ns, func(name string) bool {
		id, ok := lockedBy(name)
		return ok && !keep(id)
	})
	var ids []migrate.ID
	for _, name := range names {
		ids = append(ids, migrate.ID(strings.TrimPrefix(name, lockPrefix)))
	}
	return ids, err
}

// locked reports whether a namespace is locked for a migration.
func locked(ns *Namespace, id migrate.ID) (bool, error) {
	c, err := firewall(ns)
	if err != nil {
		return false, err
	}
	tables, err := c.ListTables()
	if err != nil {
		return false, fmt.Errorf("list nftables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool {
		by, ours := lockedBy(t.Name)
		return ours && by == id
	}), nil
}

// lockedBy returns the ID in a lock's name.
func lockedBy(name string) (migrate.ID, bool) {
	rest, ok := strings.CutPrefix(name, lockPrefix)
	id, err := migrate.ParseID(rest)
	return id, ok && err == nil
}

// isLock reports whether a table is a lock, ours or CRIU's.
func isLock(name string) bool {
	_, ours := lockedBy(name)
	return ours || strings.HasPrefix(name, criuPrefix)
}

// DropCRIUTables removes the tables by which a CRIU that was killed has left
// connections locked: those of the runs that mine says yes to. A run is named by
// a UUID, or before CRIU 4.0 by the PID of the dumped root. In the
// workload's own namespace all are its own; in one that others use they are not.
func DropCRIUTables(ns *Namespace, mine func(run string) bool) error {
	_, err := dropTables(ns, func(name string) bool {
		run, ok := strings.CutPrefix(name, criuPrefix)
		return ok && mine(run)
	})
	return err
}

// dropTables deletes the chosen tables, and returns their names.
func dropTables(ns *Namespace, choose func(name string) bool) ([]string, error) {
	c, err := firewall(ns)
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	var names []string
	for _, t := range tables {
		if choose(t.Name) {
			c.DelTable(t)
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("remove nftables %s: %w", strings.Join(names, ", "), err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
