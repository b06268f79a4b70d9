package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

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
	list, err := readRemaps(dir)
	linked := func(e *remap.RemapFilePathEntry) bool { return e.GetRemapType() == remap.RemapType_LINKED }
	return slices.ContainsFunc(list, linked), err
}

// RenameGhosts gives the deleted files in the dump in dir numbers of which no
// other restore has any. To be called before a restore.
//
// CRIU makes such a file with the number in its name, beside where it was
// ("NAME.cr.1.ghost"), and removes it after the post-restore hook. The first one of
// every dump has the number 1: of two trees that have deleted a file of one name in
// one directory, and are restored at a time, each would take the other's away.
func RenameGhosts(dir string) error {
	list, err := readRemaps(dir)
	if err != nil {
		return err
	}
	number := newNumbers(list)
	if len(number) == 0 {
		return nil
	}
	out := appendMagic(nil, remapsMagic)
	for _, e := range list {
		if e.GetRemapType() == remap.RemapType_GHOST {
			e.RemapId = proto.Uint32(number[e.GetRemapId()])
		}
		msg, err := proto.Marshal(e)
		if err != nil {
			return fmt.Errorf("image of files without names: %w", err)
		}
		out = appendMessage(out, msg)
	}
	for was, is := range number {
		if err := os.Rename(ghostImage(dir, was), ghostImage(dir, is)); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, remapsImage)
	if err := os.WriteFile(path+".new", out, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func ghostImage(dir string, number uint32) string {
	return filepath.Join(dir, fmt.Sprintf("ghost-file-%x.img", number))
}

// newNumbers returns new numbers by old ones, none of which is among the new.
func newNumbers(list []*remap.RemapFilePathEntry) map[uint32]uint32 {
	numbers := map[uint32]uint32{}
	for _, e := range list {
		if e.GetRemapType() == remap.RemapType_GHOST {
			numbers[e.GetRemapId()] = 0
		}
	}
	var fresh uint32
	for was := range numbers {
		for taken := true; taken; _, taken = numbers[fresh] {
			fresh = 1 + rand.Uint32N(1<<28) // short enough for long names
		}
		numbers[was] = fresh
	}
	return numbers
}

// readRemaps returns the entries of the image of files without names; none if there
// is no such image.
func readRemaps(dir string) (list []*remap.RemapFilePathEntry, err error) {
	b, err := readBounded(filepath.Join(dir, remapsImage), maxFilesImage)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		b, err = openImage(b, remapsMagic)
	}
	for err == nil && len(b) > 0 {
		var msg []byte
		if msg, b, err = cutMessage(b); err != nil {
			break
		}
		e := &remap.RemapFilePathEntry{}
		err = proto.Unmarshal(msg, e)
		list = append(list, e)
	}
	if err != nil {
		return nil, fmt.Errorf("image of files without names: %w", err)
	}
	return list, nil
}
