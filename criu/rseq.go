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
		if err := addRestartable(pages, dir, &e); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// addRestartable adds the pages of one process. Of one that is dead and not yet
// waited for there is no thread, and the one that CRIU lists has no number
// (dump_one_zombie of cr-dump.c writes an image of the process alone).
func addRestartable(pages map[uint64][]uint64, dir string, e *pstree.PstreeEntry) error {
	first, err := readCore(dir, e.GetPid())
	if err != nil {
		return fmt.Errorf("image of process %d: %w", e.GetPid(), err)
	}
	if first.GetThreadCore() == nil {
		return nil
	}
	for _, tid := range e.GetThreads() {
		core, err := readCore(dir, tid)
		if err != nil {
			return fmt.Errorf("image of thread %d: %w", tid, err)
		}
		if address := restartable(core); address != 0 {
			pid := uint64(e.GetPid())
			pages[pid] = append(pages[pid], address&^(PageSize-1))
		}
	}
	return nil
}

// restartable returns where a thread has its struct rseq, 0 if it has none. It is
// 32 bytes or more at a multiple of its size, and so in one page.
func restartable(core *criucore.CoreEntry) uint64 {
	return core.GetThreadCore().GetRseqEntry().GetRseqAbiPointer()
}

// readCore reads what a dump has of a thread.
func readCore(dir string, tid uint32) (*criucore.CoreEntry, error) {
	b, err := readBounded(filepath.Join(dir, fmt.Sprintf("core-%d.img", tid)), maxCore)
	if err != nil {
		return nil, err
	}
	if b, err = openImage(b, coreMagic); err != nil {
		return nil, err
	}
	if b, err = onlyMessage(b); err != nil {
		return nil, err
	}
	e := &criucore.CoreEntry{}
	// A field that a newer CRIU demands is not for this reader to miss.
	return e, proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(b, e)
}
