package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"migrate"
	"migrate/network"
	"migrate/workload"
)

// NetworkSpec is the network namespace that comes with a workload.
type NetworkSpec struct {
	Path        string              `json:"path,omitempty"` // of its name; "" if it has none
	MapBridge   map[string]string   `json:"map-bridge,omitempty"`
	Description network.Description `json:"description"` // valid
}

// A netns is the network namespace of a workload that is about to come. One with a
// name is made before the runtime starts, which looks for it; any other one is made by
// CRIU. It is filled when CRIU has come to the namespaces, with what the source sees at
// the freeze, and nobody hears of it until it is opened.
type netns struct {
	spec   NetworkSpec
	target *network.Target
	host   *network.Namespace
	warm   *network.Namespace // held so that the kernel's hooks for firewalls stay in place
	ns     *network.Namespace // nil before it is known
	name   *workload.NetworkName
}

// prepareNetwork makes ready for a namespace, and makes it once for trial: what does not
// work is to be known before the workload is frozen.
func prepareNetwork(id migrate.ID, spec NetworkSpec) (*netns, error) {
	n := &netns{spec: spec}
	if err := n.prepare(id); err != nil {
		n.close()
		return nil, fmt.Errorf("network of the workload: %w", err)
	}
	return n, nil
}

func (n *netns) prepare(id migrate.ID) (err error) {
	spec := n.spec
	if n.host, err = network.Current(); err != nil {
		return err
	}
	n.target = &network.Target{ID: id, Host: n.host, Bridges: spec.MapBridge}
	found, err := n.target.Check(spec.Description)
	if err == nil && len(found.Blockers) > 0 {
		err = errors.New(found.Blockers[0].What)
	}
	if err != nil {
		return err
	}
	if n.warm, err = network.Warm(); err != nil {
		return err
	}
	if err := errors.Join(n.target.Fill(n.warm, spec.Description), n.target.Remove(n.warm)); err != nil {
		return err
	}
	return n.giveName()
}

// giveName makes the namespace that a container joins by name.
func (n *netns) giveName() (err error) {
	if n.spec.Path == "" {
		return nil
	}
	if n.ns, err = network.CreateNamed(n.spec.Path, n.target.ID); err != nil {
		return err
	}
	n.name = &workload.NetworkName{Path: n.spec.Path}
	n.name.Inode, err = n.ns.Inode()
	return err
}

// fill makes in the namespace of the tree, whose first process is there, what it had
// on the source.
func (n *netns) fill(pid int, d network.Description) (err error) {
	if n.ns == nil {
		if n.ns, err = network.OfProcess(pid); err != nil {
			return err
		}
	}
	n.spec.Description = d
	return n.target.Fill(n.ns, d)
}

// open lets the tree talk, and begins to tell the neighbours. What fails here does not
// keep it from running.
func (n *netns) open(log *slog.Logger) {
	if n == nil {
		return
	}
	openNetwork(n.target, n.ns, n.spec.Description, log)
	n.ns = nil
}

// openNetwork takes over ns.
func openNetwork(t *network.Target, ns *network.Namespace, d network.Description, log *slog.Logger) {
	if err := t.Up(ns, d); err != nil {
		log.Error("opening the workload's network", "cause", err)
	}
	go func() {
		defer ns.Close()
		if err := network.Announce(context.Background(), ns, d, network.Rounds{}); err != nil {
			log.Warn("announcing the workload's addresses", "cause", err)
		}
	}()
}

// prepareNetwork does so once for a migration.
func (s *server) prepareNetwork(id migrate.ID, spec *NetworkSpec) (err error) {
	if spec != nil && s.net == nil {
		s.net, err = prepareNetwork(id, *spec)
	}
	return err
}

// dropNetwork gives up what was for a restore that is over.
func (s *server) dropNetwork() {
	s.net.close()
	s.net = nil
}

// named is the name that is to be removed with the workload; nil if there is none.
func (n *netns) named() *workload.NetworkName {
	if n == nil {
		return nil
	}
	return n.name
}

// outline is what whoever goes on after us has to know.
func (n *netns) outline() *NetworkSpec {
	if n == nil {
		return nil
	}
	s := n.spec
	s.Description = s.Description.Outline()
	return &s
}

// close gives up what is not open yet. What was made of it is removed by whoever has
// the migration in his journal.
func (n *netns) close() {
	if n == nil {
		return
	}
	for _, ns := range []*network.Namespace{n.host, n.warm, n.ns} {
		ns.Close()
	}
}

// openNetwork opens what a supervisor that died as it let the tree go has not opened
// any more.
func (m mark) openNetwork() error {
	if m.Network == nil {
		return nil
	}
	host, err := network.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	ns, err := network.OfProcess(m.Root.PID)
	if err != nil {
		return err
	}
	t := &network.Target{ID: m.Record.Migration, Host: host}
	openNetwork(t, ns, m.Network.Description, slog.New(slog.DiscardHandler))
	return nil
}

// removeNetworkName takes away the name of a namespace that ended with its workload.
func removeNetworkName(r workload.Record) error {
	if r.Network == nil {
		return nil
	}
	return network.RemoveOwn(r.Network.Path, r.Network.Inode)
}
