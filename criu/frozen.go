package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	"google.golang.org/protobuf/proto"
)

const (
	cgroupImage    = "cgroup.img"
	maxCgroupImage = 64 << 20
)

// ForgetFrozen rewrites the image of cgroups in dir so that a restore freezes
// nothing, and reports whether there was something to freeze. It changes nothing
// the second time. To be called before a restore.
//
// A freezer of version 1 that was frozen before the dump is frozen in the image
// (add_freezer_state of cgroup.c), and a restore in a mode that sets properties
// freezes it again before it lets the tree go: CRIU stops with it, and nobody is
// left to go on. That the tree was frozen was our own doing: one that is not ours is
// no workload to be moved.
func ForgetFrozen(dir string) (bool, error) {
	path := filepath.Join(dir, cgroupImage)
	b, err := readBounded(path, maxCgroupImage)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("image of cgroups: %w", err)
	}
	out, changed, err := forgetFrozen(b)
	if err != nil {
		return false, fmt.Errorf("image of cgroups: %w", err)
	}
	if !changed {
		return false, nil
	}
	if err := os.WriteFile(path+".new", out, 0o600); err != nil {
		return false, err
	}
	return true, os.Rename(path+".new", path)
}

func forgetFrozen(b []byte) (out []byte, changed bool, err error) {
	rest, err := openImage(b, cgroupMagic)
	if err != nil {
		return nil, false, err
	}
	msg, err := onlyMessage(rest)
	if err != nil {
		return nil, false, err
	}
	var entry cgroup.CgroupEntry
	if err := proto.Unmarshal(msg, &entry); err != nil {
		return nil, false, err
	}
	for _, c := range entry.Controllers {
		changed = dropFrozen(c.Dirs) || changed
	}
	if msg, err = proto.Marshal(&entry); err != nil {
		return nil, false, err
	}
	return appendMessage(appendMagic(nil, cgroupMagic), msg), changed, nil
}

func dropFrozen(dirs []*cgroup.CgroupDirEntry) (changed bool) {
	for _, d := range dirs {
		n := len(d.Properties)
		d.Properties = slices.DeleteFunc(d.Properties, func(p *cgroup.CgroupPropEntry) bool { return p.GetName() == "freezer.state" })
		changed = len(d.Properties) != n || changed
		changed = dropFrozen(d.Children) || changed
	}
	return changed
}
