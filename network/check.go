package network

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"migrate"
)

// Target is a host as the place of one migration's network. It is not for
// concurrent use.
type Target struct {
	ID      migrate.ID
	Host    *Namespace        // where bridges and parents are
	Bridges map[string]string // of the source's bridges and parents, those that have another name here

	fresh *baseline // once checked
	ends  []int     // the host's ends, once made
}

// uplink returns what a link hangs on here.
func (t *Target) uplink(l Link) string {
	if name, ok := t.Bridges[l.uplink()]; ok {
		return name
	}
	return l.uplink()
}

// Check compares a valid description with the host: whether links find what they
// hang on, and nobody else has their addresses. The one who has them on the source
// is of another host and not seen here.
func (t *Target) Check(d Description) (Findings, error) {
	h, err := t.Host.handle()
	if err != nil {
		return Findings{}, err
	}
	defer h.Close()
	c := checker{t: t, h: h, d: d}
	for _, step := range []func() error{c.uplinks, c.taken, c.baseline, c.settings} {
		if err := step(); err != nil {
			return Findings{}, fmt.Errorf("check the target's network: %w", err)
		}
	}
	if len(d.Firewall) > 0 {
		if err := tryFirewall(d.Firewall); err != nil {
			c.found.block(CodeFirewall, "load the kernel modules that the rules need, or remove the rules",
				"the target's kernel does not take the namespace's firewall rules: %v", err)
		}
	}
	return c.found, nil
}

type checker struct {
	t     *Target
	h     *netlink.Handle
	d     Description
	links []netlink.Link // of the host
	found Findings
}

func (c *checker) uplinks() (err error) {
	if c.links, err = dump(c.h.LinkList); err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range c.d.Links {
		if l.attached() {
			c.uplink(l)
		}
	}
	return nil
}

func (c *checker) named(name string) netlink.Link {
	for _, k := range c.links {
		if k.Attrs().Name == name {
			return k
		}
	}
	return nil
}

func (c *checker) uplink(l Link) {
	name := c.t.uplink(l)
	up := c.named(name)
	if up == nil || l.Kind == KindVeth && up.Type() != "bridge" {
		what := "link"
		if l.Kind == KindVeth {
			what = "bridge"
		}
		c.found.block(CodeBridge, fmt.Sprintf("make it, or say what it is called there: --map-bridge %s=NAME", l.uplink()),
			"the target has no %s %s for link %s", what, name, l.Name)
		return
	}
	if l.MTU > up.Attrs().MTU {
		c.found.block(CodeMTU, "raise it there, or lower the link's before the move",
			"link %s has an MTU of %d, %s on the target one of %d", l.Name, l.MTU, name, up.Attrs().MTU)
	}
	if bridge, ok := up.(*netlink.Bridge); ok && l.Peer != nil {
		c.bridge(l, bridge)
	}
}

func (c *checker) bridge(l Link, b *netlink.Bridge) {
	switch {
	case len(l.Peer.VLANs) > 0 && !filters(b):
		c.found.block(CodeVLAN, "turn vlan_filtering on there, or map to another bridge",
			"link %s is on VLANs, and bridge %s on the target does not filter by them", l.Name, b.Name)
	case len(l.Peer.VLANs) == 0 && filters(b):
		c.found.warn(CodeVLAN, "see that this is the right one",
			"bridge %s on the target filters by VLAN; link %s will be on its default one", b.Name, l.Name)
	}
	if stp(c.t.Host, b.Index) {
		c.found.warn(CodeSTP, "turn it off there, or its forward delay down",
			"bridge %s on the target uses the spanning tree protocol: link %s will be mute for up to 30 s", b.Name, l.Name)
	}
}

// taken finds addresses and MACs of the workload that are in use on the host: in its own
// namespace, or in one that is on the same bridge or parent.
func (c *checker) taken() error {
	users, err := c.users()
	if err != nil {
		return err
	}
	for _, l := range c.d.Links {
		if !l.attached() {
			continue
		}
		uplink := c.t.uplink(l)
		for _, u := range users {
			if u.uplink == "" || u.uplink == uplink {
				c.compare(l, u)
			}
		}
	}
	return nil
}

func (c *checker) compare(l Link, u user) {
	if l.MAC != "" && l.MAC == u.mac && l.Kind != KindIPVlan {
		c.found.block(CodeMACIn, "give one of the two another", "MAC %s of link %s is in use on the target, by %s", l.MAC, l.Name, u.who)
	}
	for _, a := range l.Addresses {
		if ip := a.Prefix.Addr(); !ip.IsLinkLocalUnicast() && !ip.IsLoopback() &&
			slices.ContainsFunc(u.addresses, func(b Address) bool { return b.Prefix.Addr() == ip }) {
			c.found.block(CodeAddressIn, "stop its user, or move to another host", "address %s is in use on the target, by %s", ip, u.who)
		}
	}
}

// user is a link that has addresses.
type user struct {
	who       string
	mac       string
	uplink    string // "" in the host's namespace
	addresses []Address
}

// users returns the host's links, and those of its other namespaces that hang on them.
func (c *checker) users() ([]user, error) {
	have, err := addresses(c.h)
	if err != nil {
		return nil, err
	}
	var list []user
	master := map[int]string{} // uplink of the host's links, by index
	for _, k := range c.links {
		a := k.Attrs()
		list = append(list, user{"link " + a.Name, a.HardwareAddr.String(), "", have[a.Index]})
		master[a.Index] = a.Name
	}
	for _, k := range c.links {
		if m := k.Attrs().MasterIndex; m != 0 && k.Type() == KindVeth {
			master[k.Attrs().Index] = c.nameOf(m)
		}
	}
	for _, path := range namespaces() {
		list = append(list, c.usersOf(path, master)...)
	}
	return list, nil
}

func (c *checker) nameOf(index int) string {
	for _, k := range c.links {
		if k.Attrs().Index == index {
			return k.Attrs().Name
		}
	}
	return ""
}

// usersOf looks into another namespace. One that is gone meanwhile has no users.
func (c *checker) usersOf(path string, master map[int]string) []user {
	ns, err := Open(path)
	if err != nil || ns.Same(c.t.Host) {
		return nil
	}
	defer ns.Close()
	h, err := ns.handle()
	if err != nil {
		return nil
	}
	defer h.Close()
	host, err := h.GetNetNsIdByFd(c.t.Host.Fd())
	if err != nil || host < 0 {
		return nil // nothing of it hangs on a link of the host
	}
	links, err := dump(h.LinkList)
	have, err2 := addresses(h)
	if err != nil || err2 != nil {
		return nil
	}
	var list []user
	for _, k := range links {
		if a := k.Attrs(); a.NetNsID == host && a.ParentIndex != 0 {
			who := fmt.Sprintf("link %s of %s", a.Name, path)
			list = append(list, user{who, a.HardwareAddr.String(), master[a.ParentIndex], have[a.Index]})
		}
	}
	return list
}

// namespaces returns a path for every network namespace that a process is in or that
// has a name.
func namespaces() []string {
	byID := map[string]string{}
	processes, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range processes {
		if id, err := os.Readlink(path); err == nil && byID[id] == "" {
			byID[id] = strings.TrimSuffix(path, "/ns/net") + "/ns/net"
		}
	}
	var list []string
	for _, path := range byID {
		list = append(list, path)
	}
	named, _ := filepath.Glob("/run/netns/*")
	list = append(list, named...)
	slices.Sort(list)
	return list
}

// baseline looks at a fresh namespace of this kernel.
func (c *checker) baseline() (err error) {
	c.t.fresh, err = readBaseline()
	return err
}

// settings finds settings that this kernel does not have.
func (c *checker) settings() error {
	var missing []string
	for name := range c.d.Sysctls {
		if _, exists := c.t.fresh.all[name]; !exists {
			missing = append(missing, name)
		}
	}
	err := c.t.Host.Do(func() error {
		if cc := c.d.Sysctls["ipv4/tcp_congestion_control"]; cc != "" {
			b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
			if err == nil && !slices.Contains(strings.Fields(string(b)), cc) {
				c.found.block(CodeCongestion, "load the module tcp_"+cc+" there", "the target has no TCP congestion control %s", cc)
			}
		}
		return nil
	})
	if len(missing) > 0 {
		slices.Sort(missing)
		c.found.warn(CodeSysctl, "", "the target's kernel has no setting %s", strings.Join(missing, ", "))
	}
	return err
}
