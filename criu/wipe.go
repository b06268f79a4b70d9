package criu

import (
	"fmt"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// maxMM bounds the image of an address space: some hundred thousand mappings.
const maxMM = 64 << 20

// AddressRange is [Start, End) of a task's memory.
type AddressRange struct{ Start, End uint64 }

// WipedOnFork returns the memory of the task pid, in the images in dir, that
// its children find empty (MADV_WIPEONFORK of madvise(2)).
func WipedOnFork(dir string, pid uint64) ([]AddressRange, error) {
	b, err := readBounded(filepath.Join(dir, fmt.Sprintf("mm-%d.img", pid)), maxMM)
	if err != nil {
		return nil, fmt.Errorf("image of an address space: %w", err)
	}
	ranges, err := wipedOnFork(b)
	if err != nil {
		return nil, fmt.Errorf("image of the address space of %d: %w", pid, err)
	}
	return ranges, nil
}

func wipedOnFork(b []byte) ([]AddressRange, error) {
	b, err := openImage(b, mmMagic)
	if err != nil {
		return nil, err
	}
	msg, err := onlyMessage(b)
	if err != nil {
		return nil, err
	}
	var entry mm.MmEntry
	if err := proto.Unmarshal(msg, &entry); err != nil {
		return nil, err
	}
	var ranges []AddressRange
	for _, v := range entry.GetVmas() {
		if v.GetMadv()&(1<<unix.MADV_WIPEONFORK) != 0 {
			ranges = append(ranges, AddressRange{v.GetStart(), v.GetEnd()})
		}
	}
	return ranges, nil
}
