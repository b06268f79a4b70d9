package target

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/internal/hostinfo"
	"migrate/rootfs"
	"migrate/transport"
	"migrate/workload/oci"
)

// Codes of what is in the way of a workload's files on this host.
const (
	codeDiffer  = "files-differ" // from those of the source
	codePlace   = "files-place"  // something is where they have to be
	codeRoom    = "files-room"   // too little of it
	codeDevices = "files-devices"
)

// allowedDevices are those that container images have, and that mean the same on
// every host (devices.txt of the kernel): null, zero, full, random, urandom, tty,
// console and ptmx.
var allowedDevices = []rootfs.Device{
	{Major: 1, Minor: 3}, {Major: 1, Minor: 5}, {Major: 1, Minor: 7}, {Major: 1, Minor: 8}, {Major: 1, Minor: 9},
	{Major: 5, Minor: 0}, {Major: 5, Minor: 1}, {Major: 5, Minor: 2},
}

// maxTreeEntries bounds the names of a tree, which its staging keeps count of.
const maxTreeEntries = 64 << 20

// look tells a source what is here of the trees that it asks for.
func (a *Agent) look(ctx context.Context, s *transport.Session, m transport.Look) error {
	answer := transport.Looked{Trees: make([]transport.Seen, len(m.Trees))}
	for i, t := range m.Trees {
		if !validPath(t.Path) {
			return fmt.Errorf("%w: a file tree at %.80q", transport.ErrProtocol, t.Path)
		}
		_, err := os.Stat(t.Path)
		seen := transport.Seen{There: err == nil}
		if seen.There && t.Probe.Name != "" {
			if seen.Shared, err = rootfs.FindProbe(t.Path, rootfs.Probe(t.Probe)); err != nil {
				return err
			}
		}
		answer.Trees[i] = seen
	}
	return s.Send(ctx, answer)
}

func validPath(p string) bool { return filepath.IsAbs(p) && filepath.Clean(p) == p && p != "/" }

// validTrees checks the trees of an offer before any of them is a path on this
// host: only what the workload is said to have, or the operator asked for, and
// nothing of the agent's own.
func (a *Agent) validTrees(o transport.Offer) error {
	for _, t := range o.Trees {
		kind := rootfs.Kind(t.Kind)
		ok := validPath(t.Path) && kind >= rootfs.Plain && kind <= rootfs.UserUpper && t.Entries >= 0 && t.Bytes >= 0 && belongs(t, o)
		for _, dir := range []string{a.cfg.StateDir, a.cfg.RunDir, a.cfg.Store} {
			ok = ok && (t.Digest != "" || !rootfs.IsBelow(dir, t.Path) && !rootfs.IsBelow(t.Path, dir))
		}
		if !ok {
			return fmt.Errorf("%w: a file tree at %.80q that is none of the workload's", transport.ErrProtocol, t.Path)
		}
	}
	return nil
}

// belongs reports whether a tree is one of the offer's workload.
func belongs(t transport.Tree, o transport.Offer) bool {
	c := o.Workload.Container
	switch t.Role {
	case migrate.TreeSync:
		return slices.Contains(o.Options.Sync, t.Path)
	case migrate.TreeRoot:
		return c != nil && (t.Path == c.RootFS.Upper || c.RootFS.Kind == migrate.RootPlain && t.Path == c.RootFS.Path)
	case migrate.TreeLayer:
		return c != nil && slices.Contains(c.RootFS.Lower, t.Path) && (t.Digest != "" || o.Options.ShipImage)
	case migrate.TreeMount:
		return c != nil && t.Digest != ""
	}
	return false
}

// sentTrees are those of an offer that come with the workload, by the numbers that
// the wire has for them.
func sentTrees(o transport.Offer) []transport.Tree {
	return slices.DeleteFunc(slices.Clone(o.Trees), func(t transport.Tree) bool { return t.Digest != "" })
}

// comes reports whether the file at a path comes with the workload.
func comes(o transport.Offer, path string) bool {
	return slices.ContainsFunc(sentTrees(o), func(t transport.Tree) bool {
		if t.Role == migrate.TreeRoot && rootfs.IsBelow(path, o.Workload.Container.RootFS.Path) {
			return true
		}
		return rootfs.IsBelow(path, t.Path)
	})
}

// treeFindings says what is in the way of the workload's files.
func (a *Agent) treeFindings(ctx context.Context, o transport.Offer) ([]migrate.Finding, error) {
	var list []migrate.Finding
	need := map[uint64]int64{} // bytes, by file system
	for _, t := range o.Trees {
		var f *migrate.Finding
		var err error
		if t.Digest != "" {
			f, err = a.compareTree(ctx, t)
		} else {
			f, err = placeFinding(o, t, need)
		}
		if err != nil {
			return nil, err
		}
		if f != nil {
			list = append(list, *f)
		}
	}
	return list, nil
}

// compareTree compares what is here with what has to be.
func (a *Agent) compareTree(ctx context.Context, t transport.Tree) (*migrate.Finding, error) {
	have, err := a.digestOf(ctx, t)
	if err == nil && have == t.Digest {
		return nil, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f := migrate.Finding{Code: codeDiffer, What: fmt.Sprintf("%s is not what it is on the source", t.Path)}
	if err != nil {
		f.What += ": " + err.Error()
	}
	switch t.Role {
	case migrate.TreeLayer:
		f.Advice = "it is a lower layer of the container's root file system: unpack the same image there, or move it aside and use --ship-image"
	default:
		f.Advice = "it is mounted in the container: make it there as on the source, or send it, or the directory that it is in, with --sync"
	}
	return &f, nil
}

func (a *Agent) digestOf(ctx context.Context, t transport.Tree) (string, error) {
	if t.File {
		return rootfs.FileDigest(ctx, t.Path)
	}
	dir := filepath.Join(a.cfg.StateDir, "digests")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return rootfs.DigestCache{Dir: dir}.Digest(ctx, t.Path, rootfs.Kind(t.Kind))
}

// placeFinding says what is in the way of a tree that comes.
func placeFinding(o transport.Offer, t transport.Tree, need map[uint64]int64) (*migrate.Finding, error) {
	for _, d := range t.Devices {
		if !slices.Contains(allowedDevices, rootfs.Device(d)) {
			return &migrate.Finding{
				Code: codeDevices, What: fmt.Sprintf("%s has a node of device %d:%d in it, which this host takes from nobody", t.Path, d.Major, d.Minor),
				Advice: "remove it from the tree, and give the container the device by its configuration",
			}, nil
		}
	}
	if f := occupied(o, t); f != nil {
		return f, nil
	}
	return roomFor(t, need)
}

// occupied finds something at a tree's place that must not be replaced.
func occupied(o transport.Offer, t transport.Tree) *migrate.Finding {
	place := rootfs.Place{Path: t.Path, ID: o.ID}
	if err := place.Check(); err != nil {
		return &migrate.Finding{Code: codePlace, What: err.Error(), Advice: "unmount it, or move it aside"}
	}
	names, err := os.ReadDir(t.Path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 || t.Role == migrate.TreeSync {
		return nil
	}
	if c := o.Workload.Container; t.Role == migrate.TreeRoot && c != nil {
		if _, err := os.Stat(filepath.Join(c.Bundle, "config.json")); err == nil {
			return nil // of an earlier stay: that it is the same is looked at elsewhere
		}
	}
	return &migrate.Finding{Code: codePlace, What: "something else is in " + t.Path, Advice: "remove it, or move it aside"}
}

// roomFor adds what a tree takes to what its file system has to have room for.
func roomFor(t transport.Tree, need map[uint64]int64) (*migrate.Finding, error) {
	dir := existing(t.Path)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, fmt.Errorf("looking at %s: %w", dir, err)
	}
	free, err := hostinfo.Free(dir)
	if err != nil {
		return nil, err
	}
	need[st.Dev] += t.Bytes
	if uint64(need[st.Dev]) <= free {
		return nil, nil
	}
	return &migrate.Finding{
		Code: codeRoom, What: fmt.Sprintf("%s has room for %d MiB, and the workload's files take %d MiB", dir, free>>20, need[st.Dev]>>20),
		Advice: "free space there, or choose another target",
	}, nil
}

// existing returns the nearest directory above path that is there.
func existing(path string) string {
	dir := filepath.Dir(path)
	for dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// rootMounted finds an overlay of somebody's in the place of the container's.
func rootMounted(o transport.Offer) *migrate.Finding {
	c := o.Workload.Container
	if c == nil || c.RootFS.Kind != migrate.RootOverlay || !comes(o, c.RootFS.Upper) {
		return nil
	}
	if there, err := oci.OverlayAt(c.RootFS.Path); err == nil && !there {
		return nil
	}
	return &migrate.Finding{Code: codePlace, What: "an overlay is mounted at " + c.RootFS.Path, Advice: "unmount it: it is mounted by the move"}
}
