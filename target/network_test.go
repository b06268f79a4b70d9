package target

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"migrate"
	"migrate/network"
	"migrate/transport"
)

func offerOf(t *testing.T, d network.Description, path string) transport.Offer {
	t.Helper()
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return transport.Offer{Network: b, Workload: migrate.Workload{OwnNet: true, Container: &migrate.Container{
		Namespaces: []migrate.ContainerNamespace{{Type: "pid"}, {Type: "network", Path: path}, {Type: "ipc", Path: "/proc/7/ns/ipc"}},
	}}}
}

var loopback = network.Description{Links: []network.Link{{Name: "lo", Kind: network.KindLoopback, Index: 1, MTU: 65536, Up: true}}}

// What a peer says of a network is refused unless it is one, and has a name that is no
// path to anything else.
func TestNetworkOfPeer(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*transport.Offer)
		path   string
		want   string // in the error; "" for none
	}{
		"own":          {nil, "", ""},
		"named":        {nil, "/run/netns/web", ""},
		"another file": {nil, "/etc/passwd", "no name for a network namespace"},
		"a way out":    {nil, "/run/netns/../../etc/web", "no name for a network namespace"},
		"no namespace": {func(o *transport.Offer) { o.Workload.OwnNet = false }, "", "a workload that has none"},
		"no JSON":      {func(o *transport.Offer) { o.Network = []byte("{") }, "", "JSON"},
		"odd link name": {func(o *transport.Offer) {
			o.Network = []byte(`{"links":[{"name":"../x","kind":"dummy","index":2,"mtu":1500}]}`)
		}, "", "network description"},
		"odd kind": {func(o *transport.Offer) {
			o.Network = []byte(`{"links":[{"name":"x","kind":"tun","index":2,"mtu":1500}]}`)
		}, "", "network description"},
	} {
		o := offerOf(t, loopback, test.path)
		if test.change != nil {
			test.change(&o)
		}
		n, err := networkOf(o)
		switch {
		case test.want == "" && (err != nil || n == nil || n.Path != test.path):
			t.Errorf("%s: networkOf() = %+v, %v", name, n, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !errors.Is(err, transport.ErrProtocol)):
			t.Errorf("%s: networkOf() = %v, want %q", name, err, test.want)
		}
	}
	if n, err := networkOf(transport.Offer{}); n != nil || err != nil {
		t.Errorf("without one: %+v, %v", n, err)
	}
}

// A namespace that comes along need not be there; others do.
func TestJoined(t *testing.T) {
	o := offerOf(t, loopback, "/run/netns/web")
	got := joined(o).Workload.Container.Namespaces
	if len(got) != 2 || got[0].Type != "pid" || got[1].Type != "ipc" || len(o.Workload.Container.Namespaces) != 3 {
		t.Errorf("joined() leaves %v of %v", got, o.Workload.Container.Namespaces)
	}
	o.Network = nil
	if got := joined(o).Workload.Container.Namespaces; len(got) != 3 {
		t.Errorf("without a network joined() leaves %v", got)
	}
}

// At the freeze the namespace must hang where the one did that was checked.
func TestFrozenNetwork(t *testing.T) {
	d := network.Description{Links: append([]network.Link{}, loopback.Links...)}
	r := &receiver{}
	var err error
	if r.network, err = networkOf(offerOf(t, d, "/run/netns/web")); err != nil {
		t.Fatal(err)
	}
	d.Sysctls = map[string]string{"ipv4/ip_forward": "1"}
	n, err := r.frozenNetwork(transport.Restore{Network: offerOf(t, d, "").Network})
	if err != nil || n.Path != "/run/netns/web" || n.Description.Sysctls["ipv4/ip_forward"] != "1" {
		t.Errorf("frozenNetwork() = %+v, %v", n, err)
	}
	d.Links = append(d.Links, network.Link{Name: "eth0", Kind: network.KindDummy, Index: 2, MTU: 1500, MAC: "02:77:00:00:00:50"})
	for name, b := range map[string]json.RawMessage{"another": offerOf(t, d, "").Network, "nothing": nil} {
		if n, err := r.frozenNetwork(transport.Restore{Network: b}); !errors.Is(err, transport.ErrProtocol) {
			t.Errorf("%s: frozenNetwork() = %+v, %v", name, n, err)
		}
	}
	r.network = nil
	if n, err := r.frozenNetwork(transport.Restore{Network: offerOf(t, d, "").Network}); n != nil || err != nil {
		t.Errorf("unasked: frozenNetwork() = %+v, %v", n, err)
	}
}
