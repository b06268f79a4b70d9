package target

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"migrate"
	"migrate/journal"
	"migrate/network"
	"migrate/supervisor"
	"migrate/transport"
)

// CodeNetworkName is the code of a finding: the name of the network namespace to
// come is taken.
const CodeNetworkName = "network-name"

// networkOf returns what a peer says of the network namespace of its workload; nil if
// none is to come. Nothing of it has a meaning on this host before it is checked here.
func networkOf(o transport.Offer) (*supervisor.NetworkSpec, error) {
	if len(o.Network) == 0 {
		return nil, nil
	}
	n := &supervisor.NetworkSpec{MapBridge: o.Options.MapBridge}
	var err error
	if n.Description, err = parseNetwork(o.Network); err != nil {
		return nil, err
	}
	if !o.Workload.OwnNet {
		return nil, fmt.Errorf("%w: a network namespace comes with a workload that has none", transport.ErrProtocol)
	}
	if c := o.Workload.Container; c != nil {
		n.Path, _ = c.NamespacePath("network")
	}
	if n.Path != "" && !network.ValidName(n.Path) {
		return nil, fmt.Errorf("%w: %.80q is no name for a network namespace", transport.ErrProtocol, n.Path)
	}
	return n, nil
}

func parseNetwork(b json.RawMessage) (d network.Description, err error) {
	if err = json.Unmarshal(b, &d); err == nil {
		err = d.Validate()
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", transport.ErrProtocol, err)
	}
	return d, err
}

// networkFindings compares the namespace to come with what is here.
func networkFindings(o transport.Offer, host string) (found network.Findings, err error) {
	n, err := networkOf(o)
	if err != nil || n == nil {
		return found, err
	}
	here, err := network.Current()
	if err != nil {
		return found, err
	}
	defer here.Close()
	t := network.Target{ID: o.ID, Host: here, Bridges: n.MapBridge}
	if found, err = t.Check(n.Description); err != nil {
		return found, err
	}
	if _, err := os.Lstat(n.Path); n.Path != "" && !errors.Is(err, fs.ErrNotExist) {
		found.Blockers = append(found.Blockers, migrate.Finding{
			Code: CodeNetworkName, What: fmt.Sprintf("%s: there is a network namespace %s already", host, n.Path),
			Advice: "remove it there, if nobody needs it: ip netns delete",
		})
	}
	return found, nil
}

// joined is the container without a network namespace that comes along: the rest of
// its namespaces with a name must be here.
func joined(o transport.Offer) transport.Offer {
	if o.Workload.Container == nil || len(o.Network) == 0 {
		return o
	}
	c := *o.Workload.Container
	c.Namespaces = slices.DeleteFunc(slices.Clone(c.Namespaces), func(n migrate.ContainerNamespace) bool { return n.Type == "network" })
	o.Workload.Container = &c
	return o
}

// netRecord is what the journal keeps of what is made for a namespace.
type netRecord struct {
	Path string `json:"path,omitempty"`
}

// prepareNetwork journals the namespace that the supervisor is about to make.
func (r *receiver) prepareNetwork() error {
	if r.network == nil {
		return nil
	}
	b, err := json.Marshal(netRecord{r.network.Path})
	if err != nil {
		return err
	}
	return r.entry.Update(func(j *journal.Record) { j.Network = b })
}

// frozenNetwork returns the namespace as it is at the freeze. It must hang where the
// one did that was checked.
func (r *receiver) frozenNetwork(m transport.Restore) (*supervisor.NetworkSpec, error) {
	if r.network == nil {
		return nil, nil
	}
	d, err := parseNetwork(m.Network)
	if err != nil {
		return nil, err
	}
	if !d.SamePlace(r.network.Description) {
		return nil, fmt.Errorf("%w: the network namespace is not the one that was offered", transport.ErrProtocol)
	}
	n := *r.network
	n.Description = d
	return &n, nil
}

// removeNetwork removes what was made of a namespace that nobody came to use.
func removeNetwork(rec journal.Record) error {
	if len(rec.Network) == 0 {
		return nil
	}
	var n netRecord
	if err := json.Unmarshal(rec.Network, &n); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	here, err := network.Current()
	if err != nil {
		return err
	}
	defer here.Close()
	t := network.Target{ID: rec.ID, Host: here}
	if n.Path != "" {
		err = t.RemoveMade(n.Path)
	} else {
		err = t.Remove(nil)
	}
	if err != nil {
		return fmt.Errorf("remove the network made for the workload: %w", err)
	}
	return nil
}
