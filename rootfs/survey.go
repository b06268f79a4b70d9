package rootfs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"migrate"
)

// Codes of what [Survey] finds.
const (
	CodeMountInside = "tree-mount-inside"
	CodeIndex       = "overlay-index"
	CodeMetacopy    = "overlay-metacopy"
	CodeRedirect    = "overlay-redirect"
	CodeXattrs      = "tree-xattrs-left"
	CodeFlags       = "tree-flags-left"
)

// Contents is what a tree is made of.
type Contents struct {
	Entries int64 // names, the root not counted
	Bytes   int64 // allocated by regular files
	Sockets int64 // which are not carried
	Devices []Device
	// Blockers are what cannot be moved, warnings what is left behind or must be
	// seen to on the target.
	Blockers, Warnings []migrate.Finding
}

// Survey looks at all names of the tree at root and their attributes, ahead of a move. It
// reads no content.
func Survey(ctx context.Context, root string, kind Kind) (Contents, error) {
	if err := kind.check(); err != nil {
		return Contents{}, err
	}
	sc, err := walk(ctx, root)
	if err != nil {
		return Contents{}, err
	}
	tree, err := openDirs(root, true)
	if err != nil {
		return Contents{}, err
	}
	defer tree.close()
	v := surveyor{kind: kind, left: map[string]bool{}, overlay: map[string]string{}}
	v.Entries, v.Sockets = int64(len(sc.entries)-1), int64(sc.sockets)
	seen := map[inode]bool{}
	for i := range sc.entries {
		e := &sc.entries[i]
		if e.nlink > 1 && e.kind != directory {
			if seen[e.id] {
				continue
			}
			seen[e.id] = true
		}
		if err := context.Cause(ctx); err != nil {
			return Contents{}, err
		}
		if err := v.look(tree, e); err != nil && !gone(err) {
			return Contents{}, fmt.Errorf("looking at %.200q in %s: %w", e.path, root, err)
		}
	}
	v.judge(sc)
	return v.Contents, nil
}

type surveyor struct {
	Contents
	kind    Kind
	left    map[string]bool   // names of attributes that are not carried
	overlay map[string]string // an overlay's own attributes, without prefix, and a path with each
}

func (v *surveyor) look(tree *dirs, e *found) error {
	switch e.kind {
	case regular:
		v.Bytes += allocated(&e.stat)
	case charDevice, blockDevice:
		d := Device{e.kind == blockDevice, e.rdev.major, e.rdev.minor}
		whiteout := d == Device{} && v.kind != Plain
		if !whiteout && !slices.Contains(v.Devices, d) {
			v.Devices = append(v.Devices, d)
		}
	}
	fd, name, err := tree.at(e.path)
	if err != nil {
		return err
	}
	names, err := listXattrs(pathOf(fd, name))
	if err != nil {
		return err
	}
	for _, n := range names {
		own, isOverlay := strings.CutPrefix(n, v.kind.overlay())
		switch {
		case v.kind != Plain && isOverlay:
			if own != "nlink" || e.kind != directory {
				v.overlay[own] = e.path
			}
		case !v.kind.carried(n):
			v.left[n] = true
		}
	}
	return nil
}

// judge turns what was seen into findings.
func (v *surveyor) judge(sc *scan) {
	block := func(code, what, advice string) {
		v.Blockers = append(v.Blockers, migrate.Finding{Code: code, What: what, Advice: advice})
	}
	warn := func(code, what, advice string) {
		v.Warnings = append(v.Warnings, migrate.Finding{Code: code, What: what, Advice: advice})
	}
	if len(sc.mounts) > 0 {
		block(CodeMountInside, fmt.Sprintf("something is mounted inside the tree, at %.200q", sc.mounts[0]),
			"unmount it, or move it as a volume of its own")
	}
	if path, ok := v.overlay["nlink"]; ok {
		block(CodeIndex, fmt.Sprintf("the overlay's index joins %.200q with names in its lower layer, and the index cannot be moved", path),
			"mount the overlay with index=off, in a container made anew")
	}
	if path, ok := v.overlay["metacopy"]; ok {
		warn(CodeMetacopy, fmt.Sprintf("%.200q, for one, has its content in the lower layer", path),
			"the overlay on the target must be mounted with metacopy=on")
	}
	if path, ok := v.overlay["redirect"]; ok {
		warn(CodeRedirect, fmt.Sprintf("%.200q, for one, was renamed and has its content in the lower layer", path),
			"the overlay on the target must be mounted with redirect_dir=follow or on")
	}
	if len(v.left) > 0 {
		warn(CodeXattrs, "extended attributes stay behind: "+strings.Join(slices.Sorted(maps.Keys(v.left)), ", "),
			"label or sign the files on the target if its policy asks for it")
	}
	if len(sc.flagged) > 0 {
		warn(CodeFlags, fmt.Sprintf("%d files are immutable or append-only, %.200q for one, and will not be on the target", len(sc.flagged), sc.flagged[0]),
			"set the flags again with chattr after the move")
	}
}
