package source

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/rootfs"
	"migrate/transport"
)

// Codes of what stands in the way of a workload's files.
const (
	codeStorage  = "file-storage"   // whose it is cannot be told
	codeLayer    = "layer-missing"  // on the target
	codeWritable = "mount-writable" // and neither shared nor sent
	codeSync     = "sync-path"      // none that could be sent
)

// A tree is one of the file trees of a workload.
type tree struct {
	migrate.Tree
	kind    rootfs.Kind
	view    string // where the workload sees it, by a path of the host
	file    bool   // it is a regular file
	fixed   bool   // the workload cannot change it
	digest  string // of one that must be equal
	devices []rootfs.Device
	sender  *rootfs.Sender // of one that is sent, once it is prepared
}

// treesOf lists the trees of a workload: those of its container, if it is one, and
// those that it was asked to take along. It notes in the container's mounts which
// of them are sent.
func treesOf(c *migrate.Container, sync []string) []*tree {
	var list []*tree
	for _, p := range outermost(sync) {
		list = append(list, &tree{Tree: migrate.Tree{Path: p, Role: migrate.TreeSync}, kind: rootfs.Plain, view: p})
	}
	if c == nil {
		return list
	}
	list = append(list, rootTrees(c.RootFS)...)
	for i := range c.Mounts {
		m := &c.Mounts[i]
		switch {
		case m.Given || m.Source == "" || rootfs.IsBelow(m.Source, c.RootFS.Path) || slices.Contains(kernels, m.Type):
		case slices.ContainsFunc(sync, func(p string) bool { return rootfs.IsBelow(m.Source, p) }):
			m.Decision = migrate.MountShip
		default:
			list = addMount(list, m)
		}
	}
	return list
}

// kernels are file systems whose files are the kernel's.
var kernels = []string{"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "mqueue", "nsfs", "bpf", "debugfs", "tracefs", "securityfs", "configfs"}

// outermost drops paths that are below others.
func outermost(paths []string) []string {
	var list []string
	for _, p := range slices.Compact(slices.Sorted(slices.Values(paths))) {
		if !slices.ContainsFunc(paths, func(o string) bool { return o != p && rootfs.IsBelow(p, o) }) {
			list = append(list, p)
		}
	}
	return list
}

// rootTrees are what a container's root file system consists of.
func rootTrees(r migrate.RootFS) []*tree {
	if r.Kind == migrate.RootPlain {
		return []*tree{{Tree: migrate.Tree{Path: r.Path, Role: migrate.TreeRoot}, kind: rootfs.Plain, view: r.Path}}
	}
	kind := rootfs.Upper
	if slices.Contains(r.Options, "userxattr") {
		kind = rootfs.UserUpper
	}
	list := []*tree{{Tree: migrate.Tree{Path: r.Upper, Role: migrate.TreeRoot}, kind: kind, view: r.Path}}
	for _, l := range r.Lower {
		list = append(list, &tree{Tree: migrate.Tree{Path: l, Role: migrate.TreeLayer}, kind: kind, fixed: true})
	}
	return list
}

// addMount adds the source of a mount, once. Sockets, pipes and devices are the
// host's own.
func addMount(list []*tree, m *migrate.ContainerMount) []*tree {
	format := m.Mode & unix.S_IFMT
	if format != unix.S_IFDIR && format != unix.S_IFREG {
		return list
	}
	for _, t := range list {
		if t.Path == m.Source {
			t.fixed = t.fixed && m.ReadOnly
			return list
		}
	}
	return append(list, &tree{
		Tree: migrate.Tree{Path: m.Source, Role: migrate.TreeMount}, kind: rootfs.Plain, view: m.Source,
		file: format == unix.S_IFREG, fixed: m.ReadOnly,
	})
}

// findFiles finds the trees of the workload and decides about each, together with
// what the target sees of them.
func (v *move) findFiles(ctx context.Context) (blockers, warnings []migrate.Finding, err error) {
	var c *migrate.Container
	if v.container != nil {
		c = &v.container.Container
	}
	v.trees = treesOf(c, v.opts.Sync)
	if len(v.trees) == 0 {
		return nil, nil, nil
	}
	seen, blockers, err := v.lookBoth(ctx)
	if err != nil {
		return nil, nil, err
	}
	for i, t := range v.trees {
		if f := t.decide(seen[i], v.opts.ShipImage); f != nil {
			blockers = append(blockers, *f)
		}
		b, w, err := v.survey(ctx, t)
		if err != nil {
			return nil, nil, err
		}
		blockers, warnings = append(blockers, b...), append(warnings, w...)
	}
	return blockers, warnings, nil
}

// lookBoth plants a probe at each tree and has the target look for it.
func (v *move) lookBoth(ctx context.Context) ([]transport.Seen, []migrate.Finding, error) {
	var blockers []migrate.Finding
	m := transport.Look{}
	for _, t := range v.trees {
		p := transport.Place{Path: t.Path}
		probe, remove, err := t.plant()
		switch {
		case err == nil:
			defer func() {
				if err := remove(); err != nil {
					v.log.Warn("removing a probe", "cause", err)
				}
			}()
			p.Probe = transport.Probe(probe)
		case t.Role == migrate.TreeRoot || t.Role == migrate.TreeSync: // to send it where it is already would be its end
			blockers = append(blockers, t.unplanted(err))
		}
		m.Trees = append(m.Trees, p)
	}
	if err := v.session.Send(ctx, m); err != nil {
		return nil, nil, err
	}
	answer, err := expect[transport.Looked](ctx, v.inbox)
	if err == nil && len(answer.Trees) != len(v.trees) {
		err = fmt.Errorf("the target tells of %d file trees, of %d asked for", len(answer.Trees), len(v.trees))
	}
	return answer.Trees, blockers, err
}

func (t *tree) plant() (rootfs.Probe, func() error, error) {
	info, err := os.Stat(t.Path)
	if err == nil && t.Role == migrate.TreeSync && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", t.Path)
	}
	if err != nil {
		return rootfs.Probe{}, nil, err
	}
	return rootfs.PlantProbe(t.Path)
}

func (t *tree) unplanted(err error) migrate.Finding {
	if t.Role == migrate.TreeSync {
		return migrate.Finding{Code: codeSync, What: fmt.Sprintf("--sync %s: %v", t.Path, err), Advice: "give a directory of this host"}
	}
	return migrate.Finding{
		Code: codeStorage, What: fmt.Sprintf("whether both hosts see the same storage at %s cannot be told: %v", t.Path, err),
		Advice: "let this host write to the directory above it",
	}
}

// decide says what is done about a tree of which the target has that much, and
// what keeps it from being done.
func (t *tree) decide(there transport.Seen, shipImage bool) *migrate.Finding {
	switch {
	case there.Shared:
		t.Decision = migrate.TreeShared
	case t.Role == migrate.TreeRoot, t.Role == migrate.TreeSync, t.Role == migrate.TreeLayer && !there.There && shipImage:
		t.Decision = migrate.TreeShip
	case !there.There && t.Role == migrate.TreeLayer:
		t.Decision = migrate.TreeBlock
		return &migrate.Finding{
			Code: codeLayer, What: fmt.Sprintf("the target lacks %s, a lower layer of the container's root file system", t.Path),
			Advice: "send it with --ship-image, or unpack the same image there",
		}
	case !there.There: // the target says so
		t.Decision = migrate.TreeBlock
	case t.file || t.fixed:
		t.Decision = migrate.TreeSame
	default:
		t.Decision = migrate.TreeBlock
		return &migrate.Finding{
			Code: codeWritable, What: fmt.Sprintf("the container can write to %s, a directory of which the target has another", t.Path),
			Advice: "send it with --sync " + t.Path + ", or put it on storage that both hosts see",
		}
	}
	return nil
}

// survey learns what the target must know of a tree.
func (v *move) survey(ctx context.Context, t *tree) (blockers, warnings []migrate.Finding, err error) {
	switch t.Decision {
	case migrate.TreeSame:
		t.digest, err = v.digestOf(ctx, t)
	case migrate.TreeShip:
		var c rootfs.Contents
		if c, err = rootfs.Survey(ctx, t.Path, t.kind); gone(err) {
			return nil, nil, nil // that is told already
		}
		t.Entries, t.Bytes, t.devices = c.Entries, c.Bytes, c.Devices
		blockers, warnings = c.Blockers, c.Warnings
	}
	return blockers, warnings, err
}

// digestOf reads a tree that the target has as well.
func (v *move) digestOf(ctx context.Context, t *tree) (string, error) {
	if t.file {
		return rootfs.FileDigest(ctx, t.Path)
	}
	dir := filepath.Join(v.cfg.StateDir, "digests")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return rootfs.DigestCache{Dir: dir}.Digest(ctx, t.Path, t.kind)
}

// offeredTrees are what the target compares or gets.
func (v *move) offeredTrees() []transport.Tree {
	var list []transport.Tree
	for _, t := range v.trees {
		if t.Decision != migrate.TreeSame && t.Decision != migrate.TreeShip {
			continue
		}
		o := transport.Tree{
			Path: t.Path, Role: t.Role, Kind: uint8(t.kind), File: t.file, Digest: t.digest, Entries: t.Entries, Bytes: t.Bytes,
		}
		for _, d := range t.devices {
			o.Devices = append(o.Devices, transport.Device(d))
		}
		list = append(list, o)
	}
	return list
}

// sent are the trees that are sent, by the numbers that the wire has for them.
func (v *move) sent() []*tree {
	return slices.DeleteFunc(slices.Clone(v.trees), func(t *tree) bool { return t.Decision != migrate.TreeShip })
}

// fileReport is what is told of all trees.
func (v *move) fileReport() []migrate.Tree {
	var list []migrate.Tree
	for _, t := range v.trees {
		list = append(list, t.Tree)
	}
	return list
}

// leaves are the directories of a container that nothing needs any more once the
// target has what is in them. A plain root file system stays, as its runtime leaves
// it when the container is deleted.
func (v *move) leaves() []string {
	if v.container == nil || v.container.RootFS.Kind != migrate.RootOverlay {
		return nil
	}
	r := v.container.RootFS
	for _, t := range v.sent() {
		if t.Role == migrate.TreeRoot {
			return []string{r.Upper, r.Work}
		}
	}
	return nil
}

// removeLeaves removes what a moved container has left on its source.
func removeLeaves(dirs []string) error {
	for _, d := range dirs {
		if err := os.RemoveAll(d); err != nil {
			return fmt.Errorf("remove the files that were moved: %w", err)
		}
	}
	return nil
}

// hostPath returns where the host finds what the workload sees at p; "" if that
// cannot be told.
func hostPath(c *migrate.Container, p string) string {
	if c == nil || p == "" {
		return p
	}
	var under *migrate.ContainerMount
	for i := range c.Mounts {
		if m := &c.Mounts[i]; rootfs.IsBelow(p, m.Path) && (under == nil || len(m.Path) > len(under.Path)) {
			under = m
		}
	}
	switch {
	case under == nil:
		return path.Join(c.RootFS.Path, p)
	case under.Source == "":
		return ""
	}
	return path.Join(under.Source, strings.TrimPrefix(p, under.Path))
}
