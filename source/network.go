package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/journal"
	"migrate/network"
	"migrate/workload"
	"migrate/workload/proc"
)

// Codes of what keeps a network namespace from moving, beside those of package
// network.
const (
	CodeTCPEstablished = "tcp-established" // --tcp established, where connections stay behind
	CodeNetworkShared  = "network-shared"  // others are in the namespace
	CodeNetworkName    = "network-name"    // its name is none that a target could give
	CodeNetworkTooNew  = "network-version" // the target is too old
)

// A netns is the network namespace of a workload that has one of its own, and that
// moves with it.
type netns struct {
	ns, host *network.Namespace
	warm     *network.Namespace // nil before prepare
	path     string             // of its name; "" if it has none
	record   netRecord          // as journaled
	offered  network.Description
}

// inspectNetwork describes the network namespace that is to move, if there is one,
// and says what is in its way.
func (v *move) inspectNetwork(ctx context.Context) (found network.Findings, err error) {
	if !v.facts.OwnNet {
		return found, nil
	}
	sharers, err := networkSharers(ctx, v.root)
	if err != nil {
		return found, err
	}
	path := v.networkPath()
	if len(sharers) > 0 {
		return v.sharedNetwork(sharers[0], path), nil
	}
	n := &netns{path: path}
	if n.ns, err = network.OfProcess(v.root); err != nil {
		return found, err
	}
	v.net = n
	if n.host, err = network.Current(); err != nil {
		return found, err
	}
	n.offered, found, err = network.Describe(n.ns, n.host)
	for _, f := range []*migrate.Finding{n.nameFinding(), v.tooOld()} {
		if f != nil {
			found.Blockers = append(found.Blockers, *f)
		}
	}
	return found, err
}

// takesNetworks is the first version of the protocol in which a target takes network
// namespaces; an older one would not notice that one is to come.
const takesNetworks = 2

func (v *move) tooOld() *migrate.Finding {
	if v.session.Version() >= takesNetworks {
		return nil
	}
	return &migrate.Finding{
		Code: CodeNetworkTooNew, What: "the target's version of migrate cannot take in the workload's network namespace", Advice: "upgrade it there",
	}
}

// Somebody who is in a namespace for a moment only looks at it, as this program does.
const (
	sharerLooks = 4
	sharerPause = 50 * time.Millisecond
)

// networkSharers returns the processes that stay in the network namespace of root and
// are not of its tree.
func networkSharers(ctx context.Context, root int) ([]proc.Process, error) {
	for look := 1; ; look++ {
		list, err := workload.NetworkSharers(root)
		if err != nil || len(list) == 0 || look == sharerLooks {
			return list, err
		}
		select {
		case <-time.After(sharerPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// networkPath returns the name of a container's network namespace, or "".
func (v *move) networkPath() string {
	if v.container == nil {
		return ""
	}
	path, _ := v.container.NamespacePath("network")
	return path
}

// sharedNetwork says what becomes of a namespace that others are in as well: it
// stays. A container joins one of the same name on the target, if connections need
// not go along.
func (v *move) sharedNetwork(other proc.Process, path string) (found network.Findings) {
	f := migrate.Finding{
		Code:   CodeNetworkShared,
		What:   fmt.Sprintf("process %d (%s) is in the workload's network namespace and not part of it", other.PID, other.Comm),
		Advice: "end it, or move it away from there: addresses and connections move only with a namespace that nobody else is in",
	}
	if path == "" || v.opts.TCP == migrate.TCPEstablished {
		found.Blockers = append(found.Blockers, f)
		return found
	}
	f.What += fmt.Sprintf(": the namespace stays, and the container joins %s on the target", path)
	found.Warnings = append(found.Warnings, f)
	return found
}

// nameFinding demands of a namespace with a name that the name is still its own, and
// one that the target may give.
func (n *netns) nameFinding() *migrate.Finding {
	if n.path == "" {
		return nil
	}
	f := &migrate.Finding{Code: CodeNetworkName}
	named, err := network.Open(n.path)
	if err != nil {
		f.What, f.Advice = fmt.Sprintf("the container's network namespace has lost its name: %v", err), "start the container anew"
		return f
	}
	defer named.Close()
	switch {
	case !named.Same(n.ns):
		f.What, f.Advice = n.path+" is not the network namespace that the container is in", "start the container anew"
		return f
	case !network.ValidName(n.path):
		f.What = fmt.Sprintf("the container's network namespace is called %s", n.path)
		f.Advice = "start it with one in /run/netns, or with one of its own"
		return f
	}
	if same, err := n.ns.SameOwner(n.host); err != nil || !same {
		f.What = n.path + " belongs to the container's user namespace, which it would not on the target"
		f.Advice = "start it with a network namespace without a name, or with one made outside the user namespace"
		return f
	}
	return nil
}

func (n *netns) close() {
	if n == nil {
		return
	}
	for _, ns := range []*network.Namespace{n.ns, n.host, n.warm} {
		ns.Close()
	}
}

// encoded returns what the target is offered; nothing if the namespace does not move.
func (n *netns) encoded() (json.RawMessage, error) {
	if n == nil {
		return nil, nil
	}
	return json.Marshal(n.offered)
}

// networkOptions tells a dump that the network is somebody else's business, and
// whose.
func (v *move) networkOptions(o *criu.DumpOptions) error {
	if !v.facts.OwnNet {
		return nil
	}
	if v.networkPath() == "" {
		o.EmptyNet = true
		return nil
	}
	ns, err := network.OfProcess(v.root)
	if err != nil {
		return err
	}
	defer ns.Close()
	inode, err := ns.Inode()
	o.External = append(o.External, fmt.Sprintf("net[%d]:%s", inode, criu.ExternalNet))
	return err
}

// netRecord is what the journal keeps of a network namespace.
type netRecord struct {
	Path    string              `json:"path,omitempty"`
	Inode   uint64              `json:"inode"`
	Outline network.Description `json:"outline"`
}

// prepareNetwork has the journal tell how to unlock and release the namespace, and
// takes out of the frozen time what the first lock costs.
func (v *move) prepareNetwork() error {
	if v.net == nil {
		return nil
	}
	inode, err := v.net.ns.Inode()
	if err != nil {
		return err
	}
	v.net.record = netRecord{v.net.path, inode, v.net.offered.Outline()}
	b, err := json.Marshal(v.net.record)
	if err != nil {
		return err
	}
	if err := v.entry.Update(func(r *journal.Record) { r.Network = b }); err != nil {
		return err
	}
	v.net.warm, err = network.Warm()
	return err
}

// lockNetwork has nothing be answered for the frozen tree, and nothing refused.
func (v *move) lockNetwork() error {
	if v.net == nil {
		return nil
	}
	return network.Lock(v.net.ns, v.id)
}

// describeNetwork describes the namespace of the frozen tree.
func (v *move) describeNetwork() (json.RawMessage, error) {
	if v.net == nil {
		return nil, nil
	}
	d, _, err := network.Describe(v.net.ns, v.net.host)
	if err != nil {
		return nil, err
	}
	if !d.SamePlace(v.net.offered) {
		return nil, errNetworkChanged
	}
	return json.Marshal(d)
}

var errNetworkChanged = &networkChanged{}

type networkChanged struct{}

func (*networkChanged) Error() string {
	return "the workload's network namespace has got other links or addresses during the move"
}

func (e *networkChanged) Failure() migrate.Failure {
	return migrate.Failure{What: e.Error(), Advice: "move it again"}
}

// unlockNetwork lets the tree talk again. Where the target may have been heard of,
// the neighbours are told.
func (v *move) unlockNetwork(ctx context.Context) error {
	if v.net == nil {
		return nil
	}
	if err := unlock(v.net.ns, v.id); err != nil || !v.committed {
		return err
	}
	return network.Announce(ctx, v.net.ns, v.net.record.Outline, network.Rounds{Count: 1})
}

// releaseNetwork is for the end of a move that went well.
func (v *move) releaseNetwork() error {
	if v.net == nil {
		return nil
	}
	return release(v.net.ns, v.net.record)
}

// removeNetworkName likewise.
func (v *move) removeNetworkName() error {
	if v.net == nil {
		return nil
	}
	return v.net.record.removeName()
}

// unlock removes our lock and what a killed CRIU has left of its own. The namespace
// is the workload's alone, and so are all of CRIU's locks in it.
func unlock(ns *network.Namespace, id migrate.ID) error {
	all := func(string) bool { return true }
	return errors.Join(network.DropCRIUTables(ns, all), network.Unlock(ns, id))
}

// openRecorded opens the namespace that a record tells of; nil if it is gone.
func openRecorded(r journal.Record) (*network.Namespace, netRecord, error) {
	var n netRecord
	if len(r.Network) == 0 {
		return nil, n, nil
	}
	if err := json.Unmarshal(r.Network, &n); err != nil {
		return nil, n, fmt.Errorf("journal: %w", err)
	}
	paths := []string{n.Path}
	if root := (workload.Live{PID: r.RootPID, Start: r.RootStart}); root.Alive() {
		paths = append(paths, fmt.Sprintf("/proc/%d/ns/net", r.RootPID))
	}
	for _, path := range slices.DeleteFunc(paths, func(p string) bool { return p == "" }) {
		ns, err := network.Open(path)
		if err != nil {
			continue
		}
		if inode, err := ns.Inode(); err == nil && inode == n.Inode {
			return ns, n, nil
		}
		ns.Close()
	}
	return nil, n, nil
}

// unlockRecorded undoes what a dead process has locked.
func unlockRecorded(ctx context.Context, r journal.Record) error {
	ns, n, err := openRecorded(r)
	if err != nil || ns == nil {
		return err
	}
	defer ns.Close()
	if err := unlock(ns, r.ID); err != nil || r.Phase != migrate.Commit {
		return err
	}
	return network.Announce(ctx, ns, n.Outline, network.Rounds{Count: 1})
}

// release takes the links of a workload that runs on the target off this host.
func release(ns *network.Namespace, n netRecord) error {
	if ns == nil {
		return nil
	}
	if err := network.Release(ns, n.Outline); err != nil {
		return fmt.Errorf("release the network on the source: %w", err)
	}
	return nil
}

// removeName takes the name of a namespace away that has been released, unless
// another one has it by now.
func (n netRecord) removeName() error {
	if n.Path == "" {
		return nil
	}
	return network.RemoveOwn(n.Path, n.Inode)
}
