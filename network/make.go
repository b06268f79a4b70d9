package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// endAlias marks the host's ends of what a migration made, until it is committed.
func (t *Target) endAlias() string { return "migrate " + string(t.ID) }

// Fill makes in an empty namespace what a valid description says. The namespace
// is locked before, and the host's ends of veth pairs stay down, until [Target.Up]:
// until then nobody hears of it. On failure the caller calls [Target.Remove].
//
// A namespace is empty if it has a loopback link, and at most the links that
// kernel modules make in every one.
func (t *Target) Fill(ns *Namespace, d Description) error {
	if err := Lock(ns, t.ID); err != nil {
		return err
	}
	m := maker{Target: t, ns: ns, d: d, fresh: t.fresh, index: map[string]int{}}
	err := m.open()
	defer m.close()
	if err == nil {
		err = m.make()
	}
	t.ends = m.ends
	if err != nil {
		return fmt.Errorf("make the network namespace: %w", err)
	}
	return nil
}

// maker fills one namespace.
type maker struct {
	*Target
	ns          *Namespace
	d           Description
	fresh       *baseline // nil if it is not known, or does not tell
	here, there *netlink.Handle
	index       map[string]int // of the links made, by name
	ends        []int
}

func (m *maker) open() (err error) {
	if m.here, err = m.ns.handle(); err != nil {
		return err
	}
	m.there, err = m.Host.handle()
	return err
}

func (m *maker) close() {
	for _, h := range []*netlink.Handle{m.here, m.there} {
		if h != nil {
			h.Close()
		}
	}
}

func (m *maker) make() error {
	if err := m.settings(); err != nil {
		return err
	}
	for _, l := range m.d.Links {
		if err := m.link(l); err != nil {
			return fmt.Errorf("link %s: %w", l.Name, err)
		}
	}
	for _, step := range []func() error{m.linkSettings, m.addressing, m.lateSettings} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := addNeighbours(m.here, m.d.Neighbours, m.index); err != nil {
		return err
	}
	if err := setRules(m.ns, m.here, m.d.Rules); err != nil {
		return err
	}
	if err := addRoutes(m.ns, m.here, m.d.Routes, m.index); err != nil {
		return err
	}
	return setFirewall(m.ns, m.d.Firewall)
}

func (m *maker) settings() error {
	if !m.fresh.fits(m.d.Sysctls) {
		m.fresh = nil
	}
	var have map[string]string
	if m.fresh != nil {
		have = m.fresh.all
	}
	return m.ns.Do(func() error { return writeSysctls(sysctlNames, m.d.Sysctls, have) })
}

// freshSettings returns what a link of the kind has when it is new, nil if that is to be read.
func (m *maker) freshSettings(l Link) map[string]string {
	switch {
	case m.fresh == nil, l.Kind == KindDummy: // accept_dad and others depend on the kind
		return nil
	case l.Kind == KindLoopback:
		return m.fresh.lo
	}
	return m.fresh.link
}

// link makes a link, with the number that it had if that is free.
func (m *maker) link(l Link) error {
	err := m.create(l, l.Index)
	if errors.Is(err, unix.EBUSY) {
		err = m.create(l, 0)
	}
	if err != nil {
		return err
	}
	k, err := m.here.LinkByName(l.Name)
	if err != nil {
		return err
	}
	m.index[l.Name] = k.Attrs().Index
	return m.finish(k, l)
}

func (m *maker) create(l Link, index int) error {
	a := netlink.NewLinkAttrs()
	a.Name, a.Index, a.MTU, a.TxQLen = l.Name, index, l.MTU, l.TxQueue
	a.HardwareAddr, _ = net.ParseMAC(l.MAC) // valid, or empty
	switch l.Kind {
	case KindVeth:
		return m.createVeth(l, a)
	case KindDummy:
		return m.here.LinkAdd(&netlink.Dummy{LinkAttrs: a})
	case KindMacvlan, KindIPVlan:
		parent, err := m.there.LinkByName(m.uplink(l))
		if err != nil {
			return fmt.Errorf("find %s on this host: %w", m.uplink(l), err)
		}
		a.ParentIndex, a.Namespace = parent.Attrs().Index, netlink.NsFd(m.ns.Fd())
		if l.Kind == KindMacvlan {
			return m.there.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MacvlanMode(l.Mode)})
		}
		a.HardwareAddr = nil // its parent's
		return m.there.LinkAdd(&netlink.IPVlan{LinkAttrs: a, Mode: netlink.IPVlanMode(l.Mode), Flag: netlink.IPVlanFlag(l.Flags)})
	}
	return nil // every namespace has its lo
}

// createVeth makes a pair and puts its outer end, down, into the bridge.
func (m *maker) createVeth(l Link, a netlink.LinkAttrs) error {
	bridge, err := m.there.LinkByName(m.uplink(l))
	if err != nil {
		return fmt.Errorf("find bridge %s on this host: %w", m.uplink(l), err)
	}
	v := netlink.NewVeth(a)
	v.PeerNamespace = netlink.NsFd(m.Host.Fd())
	v.PeerMTU, v.PeerTxQLen = uint32(l.Peer.MTU), l.Peer.TxQueue
	v.PeerHardwareAddr = outerMAC()
	v.PeerName = l.Peer.Name
	if _, err := m.there.LinkByName(v.PeerName); err == nil {
		v.PeerName = freeName()
	}
	if err := m.here.LinkAdd(v); err != nil {
		return err
	}
	end, err := m.there.LinkByName(v.PeerName)
	if err != nil {
		return err
	}
	m.ends = append(m.ends, end.Attrs().Index)
	if err := m.there.LinkSetAlias(end, m.endAlias()); err != nil {
		return fmt.Errorf("mark the host's end: %w", err)
	}
	if err := m.there.LinkSetMaster(end, bridge); err != nil {
		return fmt.Errorf("put the host's end into bridge %s: %w", bridge.Attrs().Name, err)
	}
	return m.port(end, *l.Peer)
}

// outerMAC returns one for the host's end. A bridge takes the lowest of its ports'
// addresses for its own, and so must not find one lower here.
func outerMAC() net.HardwareAddr {
	mac := net.HardwareAddr{0xfe, 0, 0, 0, 0, 0}
	rand.Read(mac[1:]) // crypto/rand.Read never fails (Go 1.24)
	return mac
}

func freeName() string { return "veth" + rand.Text()[:10] }

// port gives a bridge port the settings that are not the kernel's defaults.
func (m *maker) port(end netlink.Link, p Peer) error {
	var errs []error
	if p.Hairpin {
		errs = append(errs, m.there.LinkSetHairpin(end, true))
	}
	if p.Isolated {
		errs = append(errs, m.there.LinkSetIsolated(end, true))
	}
	if p.NoLearning {
		errs = append(errs, m.there.LinkSetLearning(end, false))
	}
	if p.NoFlood {
		errs = append(errs, m.there.LinkSetFlood(end, false))
	}
	if len(p.VLANs) > 0 {
		errs = append(errs, m.setVLANs(end, p.VLANs))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("set up the bridge port: %w", err)
	}
	return nil
}

// setVLANs makes a port a member of exactly these: the bridge has put it into its own
// default.
func (m *maker) setVLANs(end netlink.Link, want []VLAN) error {
	have, err := vlans(m.there)
	if err != nil {
		return err
	}
	for _, v := range have[int32(end.Attrs().Index)] {
		if err := m.there.BridgeVlanDel(end, v.ID, v.PVID, v.Untagged, false, true); err != nil {
			return err
		}
	}
	for _, v := range want {
		if err := m.there.BridgeVlanAdd(end, v.ID, v.PVID, v.Untagged, false, true); err != nil {
			return err
		}
	}
	return nil
}

// finish sets what a link cannot be made with.
func (m *maker) finish(k netlink.Link, l Link) error {
	var errs []error
	if a := k.Attrs(); l.Kind == KindLoopback && a.MTU != l.MTU {
		errs = append(errs, m.here.LinkSetMTU(k, l.MTU))
	}
	if l.Alias != "" {
		errs = append(errs, m.here.LinkSetAlias(k, l.Alias))
	}
	if l.NoARP && l.Kind != KindIPVlan {
		errs = append(errs, m.here.LinkSetARPOff(k))
	}
	if l.Multicast {
		errs = append(errs, m.here.LinkSetAllmulticastOn(k))
	}
	if l.Promisc {
		errs = append(errs, m.here.SetPromiscOn(k))
	}
	return errors.Join(errs...)
}

// genMode is how the kernel makes link-local addresses by itself; 1 is not at all
// (ip-sysctl.rst). Its own would begin with a search for duplicates.
const genMode = "ipv6/addr_gen_mode"

// linkSettings sets what is to be set before a link is up.
func (m *maker) linkSettings() error {
	return m.eachLink(func(l Link) error {
		first := maps.Clone(l.Sysctls)
		if _, ok := first[genMode]; ok && l.attached() {
			first[genMode] = "1"
		}
		return writeLinkSysctls(l.Name, first, m.freshSettings(l))
	})
}

// lateSettings sets what is to be set once there are addresses.
func (m *maker) lateSettings() error {
	return m.eachLink(func(l Link) error {
		v, ok := l.Sysctls[genMode]
		if !ok {
			return nil
		}
		name := linkSysctl(l.Name, genMode)
		return writeSysctls([]string{name}, map[string]string{name: v}, nil)
	})
}

// eachLink calls f in the namespace for every link.
func (m *maker) eachLink(f func(Link) error) error {
	return m.ns.Do(func() error {
		for _, l := range m.d.Links {
			if err := f(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// addressing takes the links up, without a carrier for want of their other ends, and
// gives them their addresses. Routes may be set from then on.
func (m *maker) addressing() error {
	for _, l := range m.d.Links {
		k := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: l.Name, Index: m.index[l.Name]}}
		if l.Up {
			if err := m.here.LinkSetUp(k); err != nil {
				return fmt.Errorf("take link %s up: %w", l.Name, err)
			}
		}
		if err := addAddresses(m.here, l, m.index[l.Name]); err != nil {
			return fmt.Errorf("link %s: %w", l.Name, err)
		}
	}
	return nil
}
