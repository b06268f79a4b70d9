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
