package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"migrate"
	"migrate/internal/hostinfo"
)

// room is what a migration needs, in bytes: its reservation once in the store,
// and once for the restored workload.
type room struct {
	need     uint64 // in the store
	stored   uint64 // of that, there already
	promised uint64 // to other migrations under way
}

// in tells what is in the way on a host, nil if nothing is.
func (r room) in(here migrate.Host) *migrate.Finding {
	switch {
	case 2*r.need+r.promised > here.MemoryAvailable+r.stored:
		return &migrate.Finding{
			Code: "memory", What: fmt.Sprintf("%s has %d MiB of memory free, %d MiB of it promised; the move needs %d MiB", here.Name, here.MemoryAvailable>>20, r.promised>>20, (2*r.need-r.stored)>>20),
			Advice: "free memory there, or choose another target",
		}
	case r.need+r.promised > here.StoreAvailable+r.stored:
		return &migrate.Finding{
			Code: "store", What: fmt.Sprintf("the store on %s has %d MiB free, %d MiB of it promised; the move needs %d MiB", here.Name, here.StoreAvailable>>20, r.promised>>20, (r.need-r.stored)>>20),
			Advice: "give the agent a larger --store, or remove what an aborted move left there with \"migrate recover\"",
		}
	}
	return nil
}

// room tells whether a workload's memory fits, beside what is promised to
// others than the drain that it is moved by.
func (a *Agent) room(w migrate.Workload, drain migrate.ID, here migrate.Host) *migrate.Finding {
	a.mu.Lock()
	defer a.mu.Unlock()
	promised := a.reserved + a.drains.promised(drain, time.Now())
	return room{need: migrate.StoreReservation(w.MemoryBytes), promised: promised}.in(here)
}

// grow reserves more for a workload that has grown since preflight, if this
// host has room still. See [pagestore.More].
func (r *receiver) grow(bytes uint64) (uint64, error) {
	stored, err := size(r.dir)
	if err != nil {
		return 0, err
	}
	here, err := r.free()
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	step := max(bytes, r.reserved/4, migrate.ReservationStep)
	need := r.reserved + step
	if f := (room{need, min(stored, need), r.Agent.reserved - r.reserved}).in(here); f != nil {
		return 0, errors.New(f.What)
	}
	r.reserved += step
	r.Agent.reserved += step
	r.log.Info("the workload has grown: more is reserved", "migration", r.id, "bytes", r.reserved)
	return step, nil
}

// free returns how much memory and store is free now.
func (a *Agent) free() (here migrate.Host, err error) {
	if here.Name, err = os.Hostname(); err != nil {
		return here, err
	}
	if here.MemoryAvailable, err = hostinfo.MemoryAvailable(); err != nil {
		return here, err
	}
	here.StoreAvailable, err = hostinfo.Free(a.cfg.Store)
	return here, err
}

// size returns how many bytes the files in dir take: holes take none.
func size(dir string) (bytes uint64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += uint64(st.Blocks) * 512 // whatever the block size is, see stat(2)
		}
		return nil
	})
	return bytes, err
}
