package criu

import (
	"os"
	"path/filepath"
	"testing"

	remap "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"google.golang.org/protobuf/proto"
)

func TestLinksFiles(t *testing.T) {
	dir := t.TempDir()
	if got, err := LinksFiles(dir); got || err != nil {
		t.Errorf("without an image: %v, %v", got, err)
	}
	image := func(kinds ...remap.RemapType) []byte {
		b := appendMagic(nil, remapsMagic)
		for _, k := range kinds {
			msg, err := proto.Marshal(&remap.RemapFilePathEntry{OrigId: proto.Uint32(1), RemapId: proto.Uint32(2), RemapType: k.Enum()})
			if err != nil {
				t.Fatal(err)
			}
			b = appendMessage(b, msg)
		}
		return b
	}
	for _, tt := range []struct {
		name  string
		image []byte
		want  bool
		bad   bool
	}{
		{"none", image(), false, false},
		{"deleted", image(remap.RemapType_GHOST, remap.RemapType_PROCFS), false, false},
		{"linked", image(remap.RemapType_GHOST, remap.RemapType_LINKED), true, false},
		{"cut off", image(remap.RemapType_GHOST)[:12], false, true},
		{"another image", appendMagic(nil, pipesMagic), false, true},
	} {
		if err := os.WriteFile(filepath.Join(dir, remapsImage), tt.image, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := LinksFiles(dir); got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
}

func TestRenameGhosts(t *testing.T) {
	dir := t.TempDir()
	if err := RenameGhosts(dir); err != nil {
		t.Errorf("without an image: %v", err)
	}
	type entry struct {
		file, number uint32
		kind         remap.RemapType
	}
	// Two descriptors of one file, one of another, and what is no file of the dump.
	entries := []entry{
		{10, 1, remap.RemapType_GHOST}, {11, 2, remap.RemapType_GHOST}, {12, 1, remap.RemapType_GHOST},
		{13, 1, remap.RemapType_LINKED}, {14, 2, remap.RemapType_PROCFS},
	}
	b := appendMagic(nil, remapsMagic)
	for _, e := range entries {
		msg, err := proto.Marshal(&remap.RemapFilePathEntry{OrigId: &e.file, RemapId: &e.number, RemapType: e.kind.Enum()})
		if err != nil {
			t.Fatal(err)
		}
		b = appendMessage(b, msg)
	}
	for name, content := range map[string]string{remapsImage: string(b), "ghost-file-1.img": "one", "ghost-file-2.img": "two"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	contents := map[uint32]string{1: "one", 2: "two"}
	seen := map[uint32]bool{}
	for range 2 { // again is as good
		if err := RenameGhosts(dir); err != nil {
			t.Fatal(err)
		}
		got, err := readRemaps(dir)
		if err != nil || len(got) != len(entries) {
			t.Fatalf("%v, %v", got, err)
		}
		for i, e := range entries {
			g := got[i]
			if g.GetOrigId() != e.file || g.GetRemapType() != e.kind {
				t.Errorf("entry %d is %v, was %v", i, g, e)
			}
			if e.kind != remap.RemapType_GHOST {
				if g.GetRemapId() != e.number {
					t.Errorf("entry %d is %v, was %v", i, g, e)
				}
				continue
			}
			if content, err := os.ReadFile(ghostImage(dir, g.GetRemapId())); err != nil || string(content) != contents[e.number] {
				t.Errorf("entry %d: %q, %v, want %q", i, content, err, contents[e.number])
			}
		}
		if n := got[0].GetRemapId(); n < 3 || n == got[1].GetRemapId() || n != got[2].GetRemapId() || seen[n] {
			t.Errorf("numbers %d, %d, %d", n, got[1].GetRemapId(), got[2].GetRemapId())
		}
		seen[got[0].GetRemapId()] = true
	}
	list, err := readRemaps(dir)
	if err == nil {
		err = os.Remove(ghostImage(dir, list[1].GetRemapId()))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := RenameGhosts(dir); err == nil {
		t.Error("a file that is missing is not noticed")
	}
}
