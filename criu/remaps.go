package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	remap "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"google.golang.org/protobuf/proto"
)

const (
	remapsImage = "remap-fpath.img"
	remapsMagic = 0x59133954 // REMAP_FPATH_MAGIC of include/magic.h
)

// LinksFiles reports whether the dump in dir has given names to files that were open
// by a name that is gone, while they have others: links in the directory of the old
// name, which a restore must find and removes (dump_linked_remap of files-reg.c).
func LinksFiles(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, remapsImage))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		b, err = openImage(b, remapsMagic)
	}
	for err == nil && len(b) > 0 {
		var msg []byte
		var e remap.RemapFilePathEntry
		if msg, b, err = cutMessage(b); err != nil {
			break
		}
		if err = proto.Unmarshal(msg, &e); err == nil && e.GetRemapType() == remap.RemapType_LINKED {
			return true, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("image of files without names: %w", err)
	}
	return false, nil
}
