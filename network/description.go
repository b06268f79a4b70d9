package network

import "net/netip"

// Description is what a workload sees of its network namespace, as far as it
// is moved. One from a peer is hostile until [Description.Validate] has passed it.
type Description struct {
	Links      []Link            `json:"links"`
	Routes     []Route           `json:"routes,omitempty"`     // those that the kernel did not make by itself
	Rules      []Rule            `json:"rules,omitempty"`      // all, the kernel's three included
	Neighbours []Neighbour       `json:"neighbours,omitempty"` // permanent and proxied ones
	Sysctls    map[string]string `json:"sysctls,omitempty"`    // below /proc/sys/net: of the namespace, and conf/all and conf/default
	Firewall   []Message         `json:"firewall,omitempty"`   // nftables as they were listed, iptables-nft's included
}

// Kinds of links that move.
const (
	KindLoopback = "loopback"
	KindVeth     = "veth"
	KindMacvlan  = "macvlan"
	KindIPVlan   = "ipvlan"
	KindDummy    = "dummy"
)

// Link is a network interface.
type Link struct {
	Index     int               `json:"index"` // programs may have bound to it
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`
	MAC       string            `json:"mac,omitempty"`
	MTU       int               `json:"mtu"`
	TxQueue   int               `json:"tx-queue"` // packets
	Alias     string            `json:"alias,omitempty"`
	Up        bool              `json:"up"`
	NoARP     bool              `json:"no-arp,omitempty"`
	Multicast bool              `json:"all-multicast,omitempty"`
	Promisc   bool              `json:"promiscuous,omitempty"`
	Peer      *Peer             `json:"peer,omitempty"`   // of a veth
	Parent    string            `json:"parent,omitempty"` // of a macvlan or ipvlan, in the host's namespace
	Mode      int               `json:"mode,omitempty"`   // likewise, as in linux/if_link.h
	Flags     int               `json:"flags,omitempty"`  // of an ipvlan, likewise
	Addresses []Address         `json:"addresses,omitempty"`
	Sysctls   map[string]string `json:"sysctls,omitempty"` // "ipv4/rp_filter" is ipv4/conf/NAME/rp_filter
}

// attached reports whether the link has a neighbour outside the namespace.
func (l Link) attached() bool {
	return l.Kind == KindVeth || l.Kind == KindMacvlan || l.Kind == KindIPVlan
}

// uplink returns what in the host's namespace the link hangs on.
func (l Link) uplink() string {
	if l.Peer != nil {
		return l.Peer.Bridge
	}
	return l.Parent
}

// Peer is a veth's end in the host's namespace, a port of a bridge.
type Peer struct {
	Name       string `json:"name"`
	Bridge     string `json:"bridge"`
	MTU        int    `json:"mtu"`
	TxQueue    int    `json:"tx-queue"`
	VLANs      []VLAN `json:"vlans,omitempty"` // only of a bridge that filters by them
	Hairpin    bool   `json:"hairpin,omitempty"`
	Isolated   bool   `json:"isolated,omitempty"`
	NoLearning bool   `json:"no-learning,omitempty"`
	NoFlood    bool   `json:"no-flood,omitempty"`
}

// VLAN is one that a bridge port belongs to.
type VLAN struct {
	ID       uint16 `json:"id"`
	PVID     bool   `json:"pvid,omitempty"`
	Untagged bool   `json:"untagged,omitempty"`
}

// Address is an address of a link.
type Address struct {
	Prefix    netip.Prefix `json:"prefix"` // the address with the length of its prefix
	Peer      netip.Prefix `json:"peer,omitzero"`
	Broadcast netip.Addr   `json:"broadcast,omitzero"`
	Label     string       `json:"label,omitempty"`
	Scope     int          `json:"scope,omitempty"`
	Flags     int          `json:"flags,omitempty"` // IFA_F_…, as far as a user can set them
	Preferred uint32       `json:"preferred"`       // seconds left, Forever if it does not end
	Valid     uint32       `json:"valid"`           // likewise
}

// Forever is a lifetime without end.
const Forever = 1<<32 - 1

// Route is a route.
type Route struct {
	Dst      netip.Prefix `json:"dst"`
	Link     string       `json:"link,omitempty"`
	Gateway  netip.Addr   `json:"gateway,omitzero"` // may be IPv6 for an IPv4 route
	Source   netip.Addr   `json:"source,omitzero"`  // preferred source address
	Hops     []Hop        `json:"hops,omitempty"`   // instead of Link and Gateway
	Table    int          `json:"table"`
	Metric   int          `json:"metric,omitempty"`
	Type     int          `json:"type"`     // RTN_…
	Scope    int          `json:"scope"`    // RT_SCOPE_…
	Protocol int          `json:"protocol"` // RTPROT_…
	TOS      int          `json:"tos,omitempty"`
	OnLink   bool         `json:"on-link,omitempty"`
	Expires  int          `json:"expires,omitempty"` // seconds left, of one that a router advertised
	Metrics
}

// Metrics are a route's settings for what is sent along it; zero is not set.
type Metrics struct {
	MTU         int    `json:"mtu,omitempty"`
	MTULock     bool   `json:"mtu-lock,omitempty"`
	AdvMSS      int    `json:"advmss,omitempty"`
	Window      int    `json:"window,omitempty"`
	RTT         int    `json:"rtt,omitempty"`
	RTTVar      int    `json:"rttvar,omitempty"`
	SSThresh    int    `json:"ssthresh,omitempty"`
	Cwnd        int    `json:"cwnd,omitempty"`
	InitCwnd    int    `json:"initcwnd,omitempty"`
	InitRwnd    int    `json:"initrwnd,omitempty"`
	Reordering  int    `json:"reordering,omitempty"`
	HopLimit    int    `json:"hoplimit,omitempty"`
	Features    int    `json:"features,omitempty"`
	RTOMin      int    `json:"rto-min,omitempty"`
	RTOMinLock  bool   `json:"rto-min-lock,omitempty"`
	QuickACK    int    `json:"quickack,omitempty"`
	Congestion  string `json:"congctl,omitempty"`
	NoTFOCookie int    `json:"fastopen-no-cookie,omitempty"`
	Realm       int    `json:"realm,omitempty"`
}

// Hop is one way of a route with several.
type Hop struct {
	Link    string     `json:"link"`
	Gateway netip.Addr `json:"gateway,omitzero"`
	Weight  int        `json:"weight"` // from 1
	OnLink  bool       `json:"on-link,omitempty"`
}

// Rule is a rule of the routing policy.
type Rule struct {
	IPv6              bool         `json:"ipv6,omitempty"`
	Priority          int          `json:"priority"`
	Table             int          `json:"table,omitempty"`
	Type              uint8        `json:"type"` // FR_ACT_…
	Protocol          uint8        `json:"protocol,omitempty"`
	Src               netip.Prefix `json:"src,omitzero"`
	Dst               netip.Prefix `json:"dst,omitzero"`
	Mark              uint32       `json:"mark,omitempty"`
	Mask              uint32       `json:"mask,omitempty"`
	TOS               uint         `json:"tos,omitempty"`
	In                string       `json:"in,omitempty"`
	Out               string       `json:"out,omitempty"`
	Invert            bool         `json:"invert,omitempty"`
	Goto              int          `json:"goto,omitempty"`               // -1 for none
	Flow              int          `json:"flow,omitempty"`               // -1 for none
	SuppressGroup     int          `json:"suppress-group,omitempty"`     // -1 for none
	SuppressPrefixLen int          `json:"suppress-prefixlen,omitempty"` // -1 for none
	IPProto           int          `json:"ip-proto,omitempty"`
	SrcPorts          Range        `json:"src-ports,omitzero"`
	DstPorts          Range        `json:"dst-ports,omitzero"`
	UIDs              Range        `json:"uids,omitzero"`
}

// Range is a range of numbers, Last included; Set tells 0 to 0 from none.
type Range struct {
	Set   bool   `json:"set"`
	First uint32 `json:"first"`
	Last  uint32 `json:"last"`
}

// Neighbour is an entry of the neighbour table that does not age.
type Neighbour struct {
	Link  string     `json:"link"`
	IP    netip.Addr `json:"ip"`
	MAC   string     `json:"mac,omitempty"`
	Proxy bool       `json:"proxy,omitempty"`
	Flags int        `json:"flags,omitempty"` // NTF_…
}
