package network

import (
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"migrate"
)

// Codes of what stands in the way of a namespace, or will be different.
const (
	CodeLink       = "network-link"       // of a kind that cannot be moved
	CodePeer       = "network-peer"       // a veth whose other end is in no bridge of this host
	CodeParent     = "network-parent"     // a macvlan or ipvlan on a link that is not this host's
	CodeRoute      = "network-route"      // a route of a kind that cannot be moved
	CodeQdisc      = "network-qdisc"      // traffic control, which stays behind
	CodeFirewall   = "network-firewall"   // rules that cannot be moved
	CodeConntrack  = "network-conntrack"  // rules that look at connections, whose state stays behind
	CodeBridge     = "network-bridge"     // not there on the target
	CodeMTU        = "network-mtu"        // larger than the target's bridge or parent
	CodeAddressIn  = "network-address"    // in use on the target
	CodeMACIn      = "network-mac"        // likewise
	CodeVLAN       = "network-vlan"       // the target's bridge does not filter by VLAN, or does
	CodeSTP        = "network-stp"        // ports of the target's bridge start late
	CodeSysctl     = "network-sysctl"     // not there on the target
	CodeCongestion = "network-congestion" // a TCP congestion control that the target lacks
)

// Findings is what [Describe] or [Target.Check] has to say.
type Findings struct {
	Blockers []migrate.Finding
	Warnings []migrate.Finding
}

func (f *Findings) block(code, advice, what string, args ...any) {
	f.Blockers = append(f.Blockers, migrate.Finding{Code: code, What: fmt.Sprintf(what, args...), Advice: advice})
}

func (f *Findings) warn(code, advice, what string, args ...any) {
	f.Warnings = append(f.Warnings, migrate.Finding{Code: code, What: fmt.Sprintf(what, args...), Advice: advice})
}

// Describe reads what a move takes along of the namespace, and finds what it
// cannot. The other ends of its links are looked for in the host's namespace.
func Describe(ns, host *Namespace) (Description, Findings, error) {
	r := reader{ns: ns, host: host}
	err := r.open()
	defer r.close()
	if err == nil {
		err = r.read()
	}
	if err != nil {
		return Description{}, Findings{}, fmt.Errorf("describe the network namespace: %w", err)
	}
	return r.d, r.found, nil
}

// reader describes one namespace.
type reader struct {
	ns, host    *Namespace
	here, there *netlink.Handle
	hostID      int // the number under which ns knows the host's namespace, -1 if it does not
	nsID        int // and the other way round
	hostLinks   []netlink.Link
	hostVLANs   map[int32][]VLAN
	names       map[int]string // of the links of ns
	d           Description
	found       Findings
}

func (r *reader) open() (err error) {
	if r.here, err = r.ns.handle(); err != nil {
		return err
	}
	r.there, err = r.host.handle()
	return err
}

func (r *reader) close() {
	for _, h := range []*netlink.Handle{r.here, r.there} {
		if h != nil {
			h.Close()
		}
	}
}

func (r *reader) read() error {
	for _, step := range []func() error{r.readHost, r.readLinks, r.readQdiscs, r.readTables, r.readSettings, r.readFirewall} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// readHost looks at the host's links, where the other ends are.
func (r *reader) readHost() (err error) {
	if r.hostID, err = r.here.GetNetNsIdByFd(r.host.Fd()); err != nil {
		return fmt.Errorf("number of the host's namespace: %w", err)
	}
	if r.nsID, err = r.there.GetNetNsIdByFd(r.ns.Fd()); err != nil {
		return fmt.Errorf("number of the namespace: %w", err)
	}
	if r.hostLinks, err = dump(r.there.LinkList); err != nil {
		return fmt.Errorf("list the host's links: %w", err)
	}
	r.hostVLANs, err = vlans(r.there)
	return err
}

func (r *reader) readLinks() error {
	list, err := dump(r.here.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	have, err := addresses(r.here)
	if err != nil {
		return err
	}
	r.names = map[int]string{}
	for _, k := range list {
		a := k.Attrs()
		if idleTunnel(k, have[a.Index]) {
			continue
		}
		r.names[a.Index] = a.Name
		l := linkOf(k)
		l.Addresses = have[a.Index]
		if r.place(k, &l) {
			r.d.Links = append(r.d.Links, l)
		}
	}
	return nil
}

// idleTunnel reports whether a link is one of those that a kernel module makes in
// every namespace, such as tunl0 and sit0, and nobody uses.
func idleTunnel(k netlink.Link, addresses []Address) bool {
	fallback := []string{"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}
	return slices.Contains(fallback, k.Attrs().Name) && k.Attrs().Flags&net.FlagUp == 0 && len(addresses) == 0
}

func linkOf(k netlink.Link) Link {
	a := k.Attrs()
	l := Link{
		Index: a.Index, Name: a.Name, Kind: kindOf(k), MAC: a.HardwareAddr.String(), MTU: a.MTU, TxQueue: a.TxQLen, Alias: a.Alias,
		Up:        a.Flags&net.FlagUp != 0,
		NoARP:     a.RawFlags&ifNoARP != 0,
		Multicast: a.RawFlags&ifAllMulticast != 0,
		Promisc:   a.RawFlags&ifPromisc != 0,
	}
	switch k := k.(type) {
	case *netlink.Macvlan:
		l.Mode = int(k.Mode)
	case *netlink.IPVlan:
		l.Mode, l.Flags = int(k.Mode), int(k.Flag)
	}
	return l
}

// Flags of netdevice(7).
const (
	ifNoARP        = 0x80
	ifPromisc      = 0x100
	ifAllMulticast = 0x200
)

func kindOf(k netlink.Link) string {
	if k.Attrs().Flags&net.FlagLoopback != 0 {
		return KindLoopback
	}
	return k.Type()
}

// place finds the other end of a link; what has none, or none that can be
// had on another host too, is a blocker.
func (r *reader) place(k netlink.Link, l *Link) bool {
	switch l.Kind {
	case KindLoopback, KindDummy:
		return true
	case KindVeth:
		return r.placeVeth(k, l)
	case KindMacvlan, KindIPVlan:
		return r.placeOnParent(k, l)
	}
	r.found.block(CodeLink, adviceFor(k), "link %s is a %s, which cannot be moved", l.Name, kindInWords(k))
	return false
}

func kindInWords(k netlink.Link) string {
	if k.Type() == "device" {
		return "network card of the host"
	}
	if t, ok := k.(*netlink.Tuntap); ok {
		return t.Mode.String() + " device"
	}
	return k.Type()
}

func adviceFor(k netlink.Link) string {
	switch k.Type() {
	case "tuntap":
		return "close the program that has it open, and start it again after the move"
	case "device":
		return "give the card back to the host, and use a veth, macvlan or ipvlan"
	}
	return "remove it before the move, and make it again after it"
}

func (r *reader) placeVeth(k netlink.Link, l *Link) bool {
	peer := r.peerOf(k)
	if peer == nil {
		r.found.block(CodePeer, "use a veth with its other end in a bridge of the host",
			"the other end of link %s is not in the host's network namespace", l.Name)
		return false
	}
	a := peer.Attrs()
	i := slices.IndexFunc(r.hostLinks, func(h netlink.Link) bool { return h.Attrs().Index == a.MasterIndex })
	if a.MasterIndex == 0 || i < 0 || r.hostLinks[i].Type() != "bridge" {
		r.found.block(CodePeer, "attach it to a bridge of the host; routed and Open vSwitch ports do not move",
			"%s, the host's end of link %s, is not in a bridge", a.Name, l.Name)
		return false
	}
	bridge := r.hostLinks[i].(*netlink.Bridge)
	l.Peer = &Peer{Name: a.Name, Bridge: bridge.Name, MTU: a.MTU, TxQueue: a.TxQLen}
	if filters(bridge) {
		l.Peer.VLANs = r.hostVLANs[int32(a.Index)]
	}
	r.readPort(peer, l.Peer)
	return true
}

// peerOf returns the link of the host that is the veth's other end: both name each
// other, since a number alone may mean a link of another namespace.
func (r *reader) peerOf(k netlink.Link) netlink.Link {
	for _, h := range r.hostLinks {
		a := h.Attrs()
		if k.Attrs().NetNsID == r.hostID && a.Index == k.Attrs().ParentIndex && h.Type() == KindVeth &&
			a.NetNsID == r.nsID && a.ParentIndex == k.Attrs().Index {
			return h
		}
	}
	return nil
}

func (r *reader) readPort(peer netlink.Link, p *Peer) {
	port, err := r.there.LinkGetProtinfo(peer)
	if err != nil {
		r.found.warn(CodePeer, "", "the settings of bridge port %s cannot be read: %v", p.Name, err)
		return
	}
	p.Hairpin, p.Isolated, p.NoLearning, p.NoFlood = port.Hairpin, port.Isolated, !port.Learning, !port.Flood
}

func (r *reader) placeOnParent(k netlink.Link, l *Link) bool {
	a := k.Attrs()
	for _, h := range r.hostLinks {
		if a.NetNsID == r.hostID && h.Attrs().Index == a.ParentIndex {
			l.Parent = h.Attrs().Name
		}
	}
	if m, ok := k.(*netlink.Macvlan); ok && m.Mode == netlink.MACVLAN_MODE_SOURCE {
		r.found.block(CodeLink, "use another mode", "link %s is a macvlan in source mode, which cannot be moved", l.Name)
		return false
	}
	if l.Parent == "" {
		r.found.block(CodeParent, "use a link of the host", "what link %s is on is not in the host's network namespace", l.Name)
		return false
	}
	return true
}

func filters(b *netlink.Bridge) bool { return b.VlanFiltering != nil && *b.VlanFiltering }

func vlans(h *netlink.Handle) (map[int32][]VLAN, error) {
	list, err := h.BridgeVlanList()
	if err != nil {
		return nil, fmt.Errorf("list the bridges' VLANs: %w", err)
	}
	ports := map[int32][]VLAN{}
	for port, vs := range list {
		for _, v := range vs {
			ports[port] = append(ports[port], VLAN{v.Vid, v.PortVID(), v.EngressUntag()})
		}
	}
	return ports, nil
}

// readQdiscs finds traffic control that somebody set: the kernel's own queues have
// no handle.
func (r *reader) readQdiscs() error {
	list, err := dump(func() ([]netlink.Qdisc, error) { return r.here.QdiscList(nil) })
	if err != nil {
		return fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, q := range list {
		if name := r.names[q.Attrs().LinkIndex]; q.Attrs().Handle != 0 && name != "" {
			r.found.warn(CodeQdisc, "set it again after the move",
				"traffic control (%s) of link %s stays behind", q.Type(), name)
		}
	}
	return nil
}

func (r *reader) readTables() (err error) {
	var odd []migrate.Finding
	if r.d.Routes, odd, err = routes(r.ns, r.here, r.names); err != nil {
		return err
	}
	r.found.Blockers = append(r.found.Blockers, odd...)
	if r.d.Rules, err = rules(r.ns, r.here); err != nil {
		return err
	}
	r.d.Neighbours, err = neighbours(r.here, r.names)
	return err
}

func (r *reader) readSettings() error {
	return r.ns.Do(func() (err error) {
		if r.d.Sysctls, err = readSysctls(sysctlNames); err != nil {
			return err
		}
		for i := range r.d.Links {
			l := &r.d.Links[i]
			if l.Sysctls, err = readLinkSysctls(l.Name); err != nil {
				return err
			}
		}
		return nil
	})
}
