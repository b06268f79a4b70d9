package network

import "testing"

func TestSamePlace(t *testing.T) {
	base := func() Description {
		return Description{Links: []Link{
			{Name: "lo", Kind: KindLoopback, MTU: 65536},
			{
				Name: "eth0", Kind: KindVeth, MAC: "02:77:00:00:00:50", MTU: 1500, Peer: &Peer{Name: "veth-web", Bridge: "br0"},
				Addresses: []Address{{Prefix: netipPrefix("10.77.0.50/24"), Valid: Forever}},
			},
		}}
	}
	for name, test := range map[string]struct {
		change func(*Description)
		want   bool
	}{
		"nothing":    {func(*Description) {}, true},
		"lifetime":   {func(d *Description) { d.Links[1].Addresses[0].Valid = 99 }, true},
		"settings":   {func(d *Description) { d.Links[1].Sysctls = map[string]string{"ipv4/rp_filter": "1"} }, true},
		"host's end": {func(d *Description) { d.Links[1].Peer.Name = "veth7" }, true},
		"bridge":     {func(d *Description) { d.Links[1].Peer.Bridge = "br1" }, false},
		"MAC":        {func(d *Description) { d.Links[1].MAC = "02:77:00:00:00:51" }, false},
		"MTU":        {func(d *Description) { d.Links[1].MTU = 9000 }, false},
		"address":    {func(d *Description) { d.Links[1].Addresses[0].Prefix = netipPrefix("10.77.0.51/24") }, false},
		"one more":   {func(d *Description) { d.Links = append(d.Links, Link{Name: "eth1"}) }, false},
		"kind":       {func(d *Description) { d.Links[1].Kind = KindDummy }, false},
		"no link":    {func(d *Description) { d.Links = nil }, false},
	} {
		d := base()
		test.change(&d)
		if got := base().SamePlace(d); got != test.want {
			t.Errorf("%s changed: SamePlace() = %v", name, got)
		}
	}
}
