package network

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rules returns the rules of the routing policy, in the kernel's order.
func rules(ns *Namespace, h *netlink.Handle) ([]Rule, error) {
	var list []Rule
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		got, err := dump(func() ([]netlink.Rule, error) { return h.RuleList(family) })
		if err != nil {
			return nil, fmt.Errorf("list routing rules: %w", err)
		}
		types, err := ruleTypes(ns, family)
		if err != nil || len(types) != len(got) {
			return nil, fmt.Errorf("list routing rules: %d types of %d rules: %w", len(types), len(got), err)
		}
		for i, k := range got {
			list = append(list, ruleOf(k, types[i]))
		}
	}
	return list, nil
}

// ruleTypes returns the actions of the rules, which the library leaves out.
func ruleTypes(ns *Namespace, family int) ([]uint8, error) {
	var types []uint8
	err := ns.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(family))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
		for _, m := range msgs {
			types = append(types, nl.DeserializeRtMsg(m).Type)
		}
		return err
	})
	return types, err
}

func ruleOf(k netlink.Rule, action uint8) Rule {
	r := Rule{
		IPv6:     k.Family == unix.AF_INET6,
		Priority: k.Priority, Table: k.Table, Type: action, Protocol: k.Protocol,
		Src: prefixOf(k.Src), Dst: prefixOf(k.Dst),
		Mark: k.Mark, TOS: k.Tos, In: k.IifName, Out: k.OifName, Invert: k.Invert,
		Goto: k.Goto, Flow: k.Flow, SuppressGroup: k.SuppressIfgroup, SuppressPrefixLen: k.SuppressPrefixlen,
		IPProto:  k.IPProto,
		SrcPorts: portsOf(k.Sport), DstPorts: portsOf(k.Dport),
	}
	if k.Mask != nil {
		r.Mask = *k.Mask
	}
	if k.UIDRange != nil {
		r.UIDs = Range{true, k.UIDRange.Start, k.UIDRange.End}
	}
	return r
}

func portsOf(p *netlink.RulePortRange) Range {
	if p == nil {
		return Range{}
	}
	return Range{true, uint32(p.Start), uint32(p.End)}
}

func (r Rule) kernel() *netlink.Rule {
	k := &netlink.Rule{
		Family: unix.AF_INET, Priority: r.Priority, Table: r.Table, Type: r.Type, Protocol: r.Protocol,
		Src: netOf(r.Src), Dst: netOf(r.Dst),
		Mark: r.Mark, Tos: r.TOS, IifName: r.In, OifName: r.Out, Invert: r.Invert,
		Goto: r.Goto, Flow: r.Flow, SuppressIfgroup: r.SuppressGroup, SuppressPrefixlen: r.SuppressPrefixLen,
		IPProto: r.IPProto, Sport: r.SrcPorts.kernel(), Dport: r.DstPorts.kernel(),
	}
	if r.IPv6 {
		k.Family = unix.AF_INET6
	}
	if r.Mark != 0 || r.Mask != 0 {
		k.Mask = &r.Mask
	}
	if r.UIDs.Set {
		k.UIDRange = netlink.NewRuleUIDRange(r.UIDs.First, r.UIDs.Last)
	}
	return k
}

func (r Range) kernel() *netlink.RulePortRange {
	if !r.Set {
		return nil
	}
	return netlink.NewRulePortRange(uint16(r.First), uint16(r.Last))
}

// setRules makes the namespace have exactly these rules.
func setRules(ns *Namespace, h *netlink.Handle, want []Rule) error {
	have, err := rules(ns, h)
	if err != nil {
		return err
	}
	for _, r := range want {
		if !slices.Contains(have, r) {
			if err := h.RuleAdd(r.kernel()); err != nil {
				return fmt.Errorf("add routing rule %d: %w", r.Priority, err)
			}
		}
	}
	for _, r := range have {
		if !slices.Contains(want, r) {
			if err := h.RuleDel(r.kernel()); err != nil {
				return fmt.Errorf("remove routing rule %d: %w", r.Priority, err)
			}
		}
	}
	return nil
}
