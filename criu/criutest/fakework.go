package criutest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"

	"migrate"
	"migrate/criu"
)

// fakeExtents is the memory of every fake process: two runs and a lazy one.
var fakeExtents = []criu.PagemapEntry{
	{Address: 0x400000, Pages: 256, Flags: criu.PagePresent},
	{Address: 0x500000, Pages: 44, Flags: criu.PagePresent | criu.PageLazy},
	{Address: 0x7ffffffde000, Pages: 3, Flags: criu.PagePresent},
}

// fakeMemory is what a process has at e.
func fakeMemory(pid int, e criu.PagemapEntry) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(pid))
	binary.LittleEndian.PutUint64(seed[8:], e.Address)
	b := make([]byte, e.Pages*criu.PageSize)
	_, _ = rand.NewChaCha8(seed).Read(b) // cannot fail
	return b
}

func taskImage(pid int) criu.PageImage {
	return criu.PageImage{Type: criu.TaskImage, ID: uint64(pid)}
}

// dump follows CRIU: hold the tree, write everything, ask, kill or let go.
func (f *fakeCRIU) dump() error {
	pid := int(f.opts.GetPid())
	p := f.world.load(pid)
	if p.State == Gone {
		return &cError{fmt.Sprintf("Can't open proc for %d: No such process", pid), syscall.ESRCH}
	}
	if err := f.notify(criu.PreDump, 0); err != nil {
		return err
	}
	frozen := isFrozen(p.Cgroup)
	if frozen && f.opts.GetFreezeCgroup() != p.Cgroup {
		return fmt.Errorf("Unseizable non-zombie %d found, state D, err -1/3", pid)
	}
	if err := errors.Join(setFrozen(p.Cgroup, false), f.world.hold(p)); err != nil {
		return err
	}
	err := f.save(p)
	if err == nil {
		err = f.notify(criu.PostDump, pid)
	}
	if err == nil && !f.opts.GetLeaveRunning() {
		return f.world.set(pid, Gone)
	}
	return errors.Join(err, setFrozen(p.Cgroup, frozen), f.world.set(pid, Running))
}

// preDump follows CRIU: hold the tree, ask for its parent, let go, send the
// memory. No hook belongs to it.
func (f *fakeCRIU) preDump() error {
	pid := int(f.opts.GetPid())
	p := f.world.load(pid)
	if p.State == Gone {
		return &cError{fmt.Sprintf("Can't open proc for %d: No such process", pid), syscall.ESRCH}
	}
	if !f.opts.GetTrackMem() || f.opts.GetPs() == nil {
		return errors.New("a pre-dump that is not modelled")
	}
	client, err := f.pageServer()
	if err != nil {
		return err
	}
	if err := f.world.hold(p); err != nil {
		return err
	}
	parent, err := client.Parent(taskImage(pid))
	if err == nil && parent {
		err = f.checkParent()
	}
	if err := errors.Join(err, f.world.set(pid, Running)); err != nil {
		return err
	}
	return errors.Join(f.sendTo(client, pid), f.writeInventory())
}

// checkParent wants what detect_pid_reuse of CRIU does.
func (f *fakeCRIU) checkParent() error {
	inv, err := criu.ReadInventory(filepath.Join(f.images(), "parent"))
	if err != nil || inv.DumpUptime == 0 {
		return errors.New("Pid-reuse detection failed: no parent inventory, check warnings in get_parent_inventory")
	}
	return nil
}

// writeInventory writes the magic number and one message: img_version 2 and,
// if memory is tracked, a dump_uptime of a second.
func (f *fakeCRIU) writeInventory() error {
	b := []byte{0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 0x08, 2}
	if f.opts.GetTrackMem() {
		b = append(b, 0x40, 0xc0, 0x84, 0x3d)
		b[4] += 4
	}
	return os.WriteFile(filepath.Join(f.images(), "inventory.img"), b, 0o600)
}

// save writes the images and sends the memory.
func (f *fakeCRIU) save(p record) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	name := criu.RootTimens
	if p.Moved {
		name = "timens-9.img"
	}
	now := time.Since(epoch) + p.Offset
	return errors.Join(
		os.WriteFile(filepath.Join(f.images(), "pstree.img"), b, 0o600),
		f.writeInventory(),
		criu.WriteTimens(f.images(), name, migrate.ClockReading{Monotonic: now, Boottime: now}),
		f.sendMemory(p.PID),
	)
}

func (f *fakeCRIU) sendMemory(pid int) error {
	if f.opts.GetPs() == nil {
		m := &Memory{}
		return errors.Join(toSink(m, pid), m.WriteImages(f.images()))
	}
	client, err := f.pageServer()
	if err != nil {
		return err
	}
	return f.sendTo(client, pid)
}

func (f *fakeCRIU) pageServer() (*criu.PageClient, error) {
	conn, err := net.FileConn(os.NewFile(uintptr(f.opts.GetPs().GetFd()), "pages"))
	if err != nil {
		return nil, err
	}
	return criu.NewPageClient(conn, FakeVersion), nil
}

// sendTo sends a process's memory. What is not the stack never changes: it is
// left out if it was in a pre-dump.
func (f *fakeCRIU) sendTo(client *criu.PageClient, pid int) error {
	parent, err := client.Open(taskImage(pid))
	if err != nil {
		return err
	}
	if f.opts.GetTrackMem() && parent {
		if err := f.checkParent(); err != nil {
			return err
		}
	}
	for i, e := range fakeExtents {
		x := criu.Extent{Image: taskImage(pid), Address: e.Address, Pages: e.Pages, Flags: e.Flags}
		if parent && f.opts.GetTrackMem() && f.opts.GetParentImg() != "" && i < len(fakeExtents)-1 {
			x.Flags = criu.PageParent
		}
		if err := client.Extent(x, fakeMemory(pid, e)); err != nil {
			return err
		}
	}
	return client.Close()
}

// toSink is a dump without a page server.
func toSink(m *Memory, pid int) error {
	img := taskImage(pid)
	if _, err := m.Open(img); err != nil {
		return err
	}
	for _, e := range fakeExtents {
		x := criu.Extent{Image: img, Address: e.Address, Pages: e.Pages, Flags: e.Flags}
		if err := m.Extent(x, bytes.NewReader(fakeMemory(pid, e))); err != nil {
			return err
		}
	}
	return nil
}

// restore follows CRIU: read all, ask, then run or leave nothing.
func (f *fakeCRIU) restore() (pid int, err error) {
	var p record
	b, err := os.ReadFile(filepath.Join(f.images(), "pstree.img"))
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return 0, err
	}
	if err := f.notify(criu.PreRestore, 0); err != nil {
		return 0, err
	}
	if f.world.load(p.PID).State != Gone {
		return 0, &cError{fmt.Sprintf("Can't fork for %d: File exists", p.PID), syscall.EEXIST}
	}
	if p, err = f.build(p); err != nil {
		return 0, err
	}
	if err := f.world.save(p); err != nil {
		return 0, err
	}
	if err := f.notify(criu.PostRestore, p.PID); err != nil {
		return 0, errors.Join(err, f.world.set(p.PID, Gone))
	}
	// CRIU does not heed what these say.
	_ = f.notify(criu.PreResume, p.PID)
	err = f.world.set(p.PID, Running)
	_ = f.notify(criu.PostResume, p.PID)
	return p.PID, err
}

// build is p as the images have it, stopped.
func (f *fakeCRIU) build(p record) (record, error) {
	if err := f.checkMemory(p.PID); err != nil {
		return p, err
	}
	_, clocks, err := criu.ReadTimens(f.images())
	switch {
	case err == nil:
		p.Offset, p.Moved = clocks.Monotonic-time.Since(epoch), true
	case !errors.Is(err, fs.ErrNotExist):
		return p, err
	}
	if f.opts.ManageCgroupsMode == nil {
		return p, errors.New("manage_cgroups_mode was not sent")
	}
	if f.opts.GetManageCgroupsMode() == rpc.CriuCgMode_IGNORE {
		p.Cgroup = f.ownCgroup()
	}
	p.State = Stopped
	return p, nil
}

// checkMemory compares the memory in the images with what the process had.
func (f *fakeCRIU) checkMemory(pid int) error {
	m, err := criu.ReadPagemap(f.images(), taskImage(pid))
	if err != nil {
		return err
	}
	pages, err := os.ReadFile(filepath.Join(f.images(), criu.PagesName(m.PagesID)))
	if err != nil {
		return err
	}
	var want []byte
	for _, e := range fakeExtents {
		want = append(want, fakeMemory(pid, e)...)
	}
	if len(m.Entries) != len(fakeExtents) || !bytes.Equal(pages, want) {
		return fmt.Errorf("memory of %d is not what it was", pid)
	}
	return nil
}
