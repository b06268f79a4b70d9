package network

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Message is an object of nftables as the kernel lists it, without what only that
// kernel can know: handles and use counts. So rules move whoever made them, and
// need no program of the host.
type Message struct {
	Type   uint8  `json:"type"`   // NFT_MSG_NEW…
	Family uint8  `json:"family"` // NFPROTO_…
	Data   []byte `json:"data"`   // attributes
}

// object is a kind of nftables object, with the attributes that move
// (linux/netfilter/nf_tables.h).
type object struct {
	name       string
	get, add   uint8
	attributes []uint16
	flags      netlink.HeaderFlags
}

// objects lists the kinds in the order to make them: rules name sets, elements of
// sets name chains.
var objects = []object{
	{"tables", unix.NFT_MSG_GETTABLE, unix.NFT_MSG_NEWTABLE, []uint16{unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_FLAGS, 6 /* USERDATA */}, 0},
	{"chains", unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, []uint16{unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME,
		unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE, unix.NFTA_CHAIN_COUNTERS, 10 /* FLAGS */, 12 /* USERDATA */}, 0},
	{"objects", unix.NFT_MSG_GETOBJ, unix.NFT_MSG_NEWOBJ, []uint16{unix.NFTA_OBJ_TABLE, unix.NFTA_OBJ_NAME, unix.NFTA_OBJ_TYPE,
		unix.NFTA_OBJ_DATA, 8 /* USERDATA */}, 0},
	{"sets", unix.NFT_MSG_GETSET, unix.NFT_MSG_NEWSET, []uint16{unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS,
		unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN, unix.NFTA_SET_POLICY,
		unix.NFTA_SET_DESC, unix.NFTA_SET_ID, unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_GC_INTERVAL, unix.NFTA_SET_USERDATA,
		unix.NFTA_SET_OBJ_TYPE, 17 /* EXPR */, 18 /* EXPRESSIONS */}, 0},
	{"elements", unix.NFT_MSG_GETSETELEM, unix.NFT_MSG_NEWSETELEM, []uint16{unix.NFTA_SET_ELEM_LIST_TABLE,
		unix.NFTA_SET_ELEM_LIST_SET, unix.NFTA_SET_ELEM_LIST_ELEMENTS}, 0},
	{"rules", unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, []uint16{unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN,
		unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_RULE_COMPAT, unix.NFTA_RULE_USERDATA}, netlink.Append},
}

func objectOf(add uint8) (object, bool) {
	i := slices.IndexFunc(objects, func(o object) bool { return o.add == add })
	if i < 0 {
		return object{}, false
	}
	return objects[i], true
}

// nfgen is the length of struct nfgenmsg, which is ahead of the attributes.
const nfgen = 4

func (r *reader) readFirewall() error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: r.ns.Fd()})
	if err != nil {
		return fmt.Errorf("open an nftables socket: %w", err)
	}
	defer c.Close()
	for _, o := range objects {
		if err := r.readObjects(c, o); err != nil {
			return fmt.Errorf("list nftables %s: %w", o.name, err)
		}
	}
	r.judgeFirewall()
	return r.readLegacy()
}

func (r *reader) readObjects(c *netlink.Conn, o object) error {
	if o.get != unix.NFT_MSG_GETSETELEM {
		return r.list(c, o, unix.AF_UNSPEC, nil)
	}
	for _, m := range r.d.Firewall {
		if m.Type != unix.NFT_MSG_NEWSET {
			continue
		}
		// The first two attributes mean the same, in a set and in a list of its elements.
		which := slices.DeleteFunc(attributes(m.Data), func(a netlink.Attribute) bool { return a.Type > unix.NFTA_SET_NAME })
		if err := r.list(c, o, m.Family, which); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) list(c *netlink.Conn, o object, family uint8, which []netlink.Attribute) error {
	ask, err := netlink.MarshalAttributes(which)
	if err != nil {
		return err
	}
	got, err := dump(func() ([]netlink.Message, error) {
		return c.Execute(netlink.Message{
			Header: netlink.Header{Type: nftType(o.get), Flags: netlink.Request | netlink.Dump},
			Data:   append([]byte{family, 0, 0, 0}, ask...),
		})
	})
	if err != nil {
		return err
	}
	for _, m := range got {
		if len(m.Data) > nfgen && m.Header.Type == nftType(o.add) {
			r.keep(o, Message{o.add, m.Data[0], m.Data[nfgen:]})
		}
	}
	return nil
}

func nftType(message uint8) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | uint16(message))
}

// keep adds a message, without the attributes that do not move. Locks, ours and
// CRIU's, are not the workload's.
func (r *reader) keep(o object, m Message) {
	list := slices.DeleteFunc(attributes(m.Data), func(a netlink.Attribute) bool { return !slices.Contains(o.attributes, attrType(a)) })
	if isLock(tableOf(list)) {
		return
	}
	if o.add == unix.NFT_MSG_NEWSET { // it wants a number, which nobody refers to
		id := binary.BigEndian.AppendUint32(nil, uint32(len(r.d.Firewall)+1))
		list = append(list, netlink.Attribute{Type: unix.NFTA_SET_ID, Data: id})
	}
	data, err := netlink.MarshalAttributes(list)
	if err == nil {
		m.Data = data
		r.d.Firewall = append(r.d.Firewall, m)
	}
}

func attrType(a netlink.Attribute) uint16 { return a.Type &^ (netlink.Nested | netlink.NetByteOrder) }

// attributes splits data from the kernel or a peer; nil if it is not well formed.
func attributes(data []byte) []netlink.Attribute {
	list, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return nil
	}
	return list
}

// tableOf returns the name of the table that an object is of: the first attribute
// of every kind.
func tableOf(list []netlink.Attribute) string {
	for _, a := range list {
		if attrType(a) == 1 {
			return string(bytes.TrimRight(a.Data, "\x00"))
		}
	}
	return ""
}

// expressions returns the names of what a rule does, in order.
func (m Message) expressions() []string {
	var names []string
	for _, a := range attributes(m.Data) {
		if attrType(a) != unix.NFTA_RULE_EXPRESSIONS {
			continue
		}
		for _, e := range attributes(a.Data) {
			for _, part := range attributes(e.Data) {
				if attrType(part) == unix.NFTA_EXPR_NAME {
					names = append(names, string(bytes.TrimRight(part.Data, "\x00")))
				}
			}
		}
	}
	return names
}

// judgeFirewall tries in a namespace of its own whether the kernel takes the rules back, and
// tells of what does not move with them.
func (r *reader) judgeFirewall() {
	if len(r.d.Firewall) == 0 {
		return
	}
	if err := tryFirewall(r.d.Firewall); err != nil {
		r.found.block(CodeFirewall, "remove the rules, or set them again after the move", "the firewall rules of the namespace cannot be moved: %v", err)
	}
	tracking := []string{"ct", "nat", "masq", "redir", "match", "target", "synproxy", "connlimit"}
	for _, m := range r.d.Firewall {
		if m.Type == unix.NFT_MSG_NEWRULE && slices.ContainsFunc(m.expressions(), func(e string) bool { return slices.Contains(tracking, e) }) {
			r.found.warn(CodeConntrack, "have rules accept packets of established connections that the kernel has not seen the beginning of",
				"firewall rules of the namespace track connections; what they know of the present ones stays behind")
			return
		}
	}
}

// tryFirewall makes rules in a namespace that ends right away. Those for one
// device (the netdev family) cannot be tried without it.
func tryFirewall(list []Message) error {
	scratch, err := newNamespace()
	if err != nil {
		return err
	}
	defer scratch.Close()
	list = slices.DeleteFunc(slices.Clone(list), func(m Message) bool { return m.Family == unix.NFPROTO_NETDEV })
	return setFirewall(scratch, list)
}

// setFirewall makes all objects in one transaction.
func setFirewall(ns *Namespace, list []Message) error {
	if len(list) == 0 {
		return nil
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.Fd()})
	if err != nil {
		return fmt.Errorf("open an nftables socket: %w", err)
	}
	defer c.Close()
	batch, size := transaction(list)
	if err := c.SetWriteBuffer(max(2*size, 1<<16)); err != nil {
		return fmt.Errorf("make room for %d bytes of nftables: %w", size, err)
	}
	if _, err := c.SendMessages(batch); err != nil {
		return fmt.Errorf("set nftables: %w", err)
	}
	if _, err := c.Receive(); err != nil {
		return fmt.Errorf("set nftables: %w", err)
	}
	return nil
}

// transaction returns the messages that make all objects or none. The last alone asks
// for an acknowledgement: errors of others come before it.
func transaction(list []Message) (batch []netlink.Message, size int) {
	batch = append(batch, batchEdge(unix.NFNL_MSG_BATCH_BEGIN))
	for i, m := range list {
		o, _ := objectOf(m.Type)
		h := netlink.Header{Type: nftType(m.Type), Flags: netlink.Request | netlink.Create | o.flags}
		if i == len(list)-1 {
			h.Flags |= netlink.Acknowledge
		}
		batch = append(batch, netlink.Message{Header: h, Data: append([]byte{m.Family, 0, 0, 0}, m.Data...)})
		size += len(m.Data) + unix.NLMSG_HDRLEN + nfgen
	}
	return append(batch, batchEdge(unix.NFNL_MSG_BATCH_END)), size
}

func batchEdge(message uint16) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(message), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES}, // res_id, big endian
	}
}
