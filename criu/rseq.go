package criu

import (
	"fmt"
	"path/filepath"

	criucore "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"google.golang.org/protobuf/proto"
)

const (
	maxTree = 64 << 20 // pstree.img: a few bytes for each thread
	maxCore = 1 << 20  // core-*.img: registers, limits and the like of one thread
)

// ReadRestartable returns, by the number of each process in a dump, the addresses
// of the pages in which the kernel notes which CPU a thread is on (rseq(2)). It
// does so whenever the thread goes on in user mode, also where that is code of
// CRIU's own in a tree that is being dumped: such a page may change by these few
// bytes, which a restore writes anew, until the dump is over.
func ReadRestartable(dir string) (map[uint64][]uint64, error) {
	b, err := readBounded(filepath.Join(dir, "pstree.img"), maxTree)
	if err != nil {
		return nil, fmt.Errorf("tree image: %w", err)
	}
	if b, err = openImage(b, pstreeMagic); err != nil {
		return nil, fmt.Errorf("tree image: %w", err)
	}
	pages := map[uint64][]uint64{}
	for len(b) > 0 {
		var msg []byte
		if msg, b, err = cutMessage(b); err != nil {
			return nil, fmt.Errorf("tree image: %w", err)
		}
		var e pstree.PstreeEntry
		if err := proto.Unmarshal(msg, &e); err != nil {
			return nil, fmt.Errorf("tree image: %w", err)
		}
		for _, tid := range e.GetThreads() {
			address, err := readRseq(dir, tid)
			if err != nil {
				return nil, fmt.Errorf("image of thread %d: %w", tid, err)
			}
			if address != 0 {
				pid := uint64(e.GetPid())
				pages[pid] = append(pages[pid], address&^(PageSize-1))
			}
		}
	}
	return pages, nil
}

// readRseq returns where a thread has its struct rseq, 0 if it has none. It is
// 32 bytes or more at a multiple of its size, and so in one page.
func readRseq(dir string, tid uint32) (uint64, error) {
	b, err := readBounded(filepath.Join(dir, fmt.Sprintf("core-%d.img", tid)), maxCore)
	if err != nil {
		return 0, err
	}
	if b, err = openImage(b, coreMagic); err != nil {
		return 0, err
	}
	if b, err = onlyMessage(b); err != nil {
		return 0, err
	}
	var e criucore.CoreEntry
	// A field that a newer CRIU demands is not for this reader to miss.
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(b, &e); err != nil {
		return 0, err
	}
	return e.GetThreadCore().GetRseqEntry().GetRseqAbiPointer(), nil
}
