package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	"google.golang.org/protobuf/proto"
)

func cgroups(t *testing.T, properties ...string) []byte {
	t.Helper()
	dir := &cgroup.CgroupDirEntry{DirName: proto.String("web")}
	for _, p := range properties {
		dir.Properties = append(dir.Properties, &cgroup.CgroupPropEntry{Name: proto.String(p), Value: proto.String("FROZEN")})
	}
	inner := proto.Clone(dir).(*cgroup.CgroupDirEntry)
	dir.Children = []*cgroup.CgroupDirEntry{inner}
	entry := &cgroup.CgroupEntry{
		Sets:        []*cgroup.CgSetEntry{{Id: proto.Uint32(1), Ctls: []*cgroup.CgMemberEntry{{Name: proto.String("freezer"), Path: proto.String("/web")}}}},
		Controllers: []*cgroup.CgControllerEntry{{Cnames: []string{"cpu"}}, {Cnames: []string{"freezer"}, Dirs: []*cgroup.CgroupDirEntry{dir}}},
	}
	msg, err := proto.MarshalOptions{Deterministic: true}.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	return appendMessage(appendMagic(nil, cgroupMagic), msg)
}

func TestForgetFrozen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, cgroupImage)
	if changed, err := ForgetFrozen(dir); changed || err != nil {
		t.Errorf("without an image: %v, %v", changed, err)
	}
	if err := os.WriteFile(path, cgroups(t, "notify_on_release", "freezer.state"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if changed, err := ForgetFrozen(dir); err != nil || changed != (i == 0) {
			t.Errorf("time %d: %v, %v", i+1, changed, err)
		}
	}
	got, err := os.ReadFile(path)
	if want := cgroups(t, "notify_on_release"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image: %x, %v, want %x", got, err, want)
	}
	for _, bad := range [][]byte{nil, {1, 2, 3}, cgroups(t)[:9], append(cgroups(t), 0), appendMessage(appendMagic(nil, cgroupMagic), []byte{0xff})} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, err := ForgetFrozen(dir); changed || err == nil {
			t.Errorf("a damaged image %x: %v, %v", bad, changed, err)
		}
	}
}
