package criu

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"migrate"
)

// firstFile is the number of Files[0] in the child: after the standard three
// comes the RPC socket.
const firstFile = rpcFD + 1

// rpcFD is the number of the RPC socket in the child.
const rpcFD = 3

// directories are the descriptors, in this process, of the two directories
// CRIU works in. It opens them as /proc/<our pid>/fd/N (cr-service.c), which
// works whatever working directory or root it has.
type directories struct{ images, work int }

// dumpRequest builds the message for a dump. It does no I/O.
func dumpRequest(o DumpOptions, d directories) (*rpc.CriuReq, error) {
	if o.PID <= 0 {
		return nil, fmt.Errorf("dump of pid %d: not a process", o.PID)
	}
	opts := &rpc.CriuOpts{}
	err := common(opts, d, "dump.log", o.ManageCgroupsMode)
	if err != nil {
		return nil, err
	}
	opts.Pid = proto.Int32(int32(o.PID))
	opts.TcpEstablished = set(o.TCPEstablished)
	opts.TcpClose = set(o.TCPClose)
	opts.ShellJob = set(o.ShellJob)
	opts.FileLocks = set(o.FileLocks)
	opts.LinkRemap = set(o.LinkRemap)
	opts.ExtUnixSk = set(o.ExtUnixSockets)
	opts.LeaveRunning = set(o.LeaveRunning)
	opts.OrphanPtsMaster = set(o.OrphanPTSMaster)
	opts.External = slices.Clone(o.External)
	addMounts(opts, o.Mounts)
	emptyNet(opts, o.EmptyNet)
	if o.Root != "" {
		opts.Root = proto.String(o.Root)
	}
	if o.FreezeCgroup != "" {
		opts.FreezeCgroup = proto.String(o.FreezeCgroup)
	}
	if o.GhostLimit != 0 {
		opts.GhostLimit = proto.Uint32(o.GhostLimit)
	}
	if o.Timeout > 0 {
		opts.Timeout = proto.Uint32(uint32((o.Timeout + time.Second - 1) / time.Second))
	}
	sendPages(opts, o.PageSocket)
	opts.TrackMem = set(o.TrackMem)
	if err := chain(opts, o.Parent); err != nil {
		return nil, err
	}
	if o.Parent != "" && !o.TrackMem {
		return nil, errors.New("dump with a parent needs memory tracking")
	}
	lockNetwork(opts, o.Lock)
	return &rpc.CriuReq{Type: rpc.CriuReqType_DUMP.Enum(), Opts: opts}, nil
}

// preDumpRequest builds the message for a pre-dump. It does no I/O.
//
// The mode is CRIU's default: the tree is held until pipes refer to all its
// pages. The other mode, which reads them once the tree runs again, corrupts them:
// it reads each MiB into the same buffer, while the socket still refers to the
// one before (page_xfer_predump_pages; 98 of 100 pages were wrong with 4.2.1).
func preDumpRequest(o PreDumpOptions, d directories) (*rpc.CriuReq, error) {
	req, err := dumpRequest(DumpOptions{
		PID: o.PID, Parent: o.Parent, TrackMem: true, LeaveRunning: true,
		FreezeCgroup: o.FreezeCgroup, External: o.External, Timeout: o.Timeout, PageSocket: o.PageSocket,
	}, d)
	if err != nil {
		return nil, fmt.Errorf("pre-%w", err)
	}
	req.Type = rpc.CriuReqType_PRE_DUMP.Enum()
	req.Opts.LogFile = proto.String("pre-dump.log")
	return req, nil
}

func sendPages(opts *rpc.CriuOpts, file *int) {
	if file != nil {
		opts.Ps = &rpc.CriuPageServerInfo{Fd: proto.Int32(int32(firstFile + *file))}
	}
}

// chain names the parent. CRIU makes a symbolic link of it, which has to lead
// to the same place wherever the images are.
func chain(opts *rpc.CriuOpts, parent string) error {
	if filepath.IsAbs(parent) {
		return fmt.Errorf("dump with parent %s: not relative to the images", parent)
	}
	if parent != "" {
		opts.ParentImg = proto.String(parent)
	}
	return nil
}

// restoreRequest builds the message for a restore. It does no I/O.
func restoreRequest(o RestoreOptions, d directories) (*rpc.CriuReq, error) {
	opts := o.Caller.base()
	if err := common(opts, d, "restore.log", o.ManageCgroupsMode); err != nil {
		return nil, err
	}
	opts.TcpEstablished = set(o.TCPEstablished)
	opts.TcpClose = set(o.TCPClose)
	opts.ShellJob = set(o.ShellJob)
	opts.FileLocks = set(o.FileLocks)
	opts.LinkRemap = set(o.LinkRemap)
	opts.ExtUnixSk = set(o.ExtUnixSockets)
	opts.OrphanPtsMaster = set(o.OrphanPTSMaster)
	opts.RstSibling = set(o.Sibling)
	opts.LazyPages = set(o.Lazy)
	opts.External = append(opts.External, o.External...)
	addMounts(opts, o.Mounts)
	emptyNet(opts, o.EmptyNet)
	for _, fd := range o.InheritFDs {
		opts.InheritFd = append(opts.InheritFd, &rpc.InheritFd{Key: proto.String(fd.Key), Fd: proto.Int32(int32(firstFile + fd.File))})
	}
	if o.CgroupRoot != "" {
		opts.CgRoot = []*rpc.CgroupRoot{{Path: proto.String(o.CgroupRoot)}}
	}
	if o.GhostLimit != 0 {
		opts.GhostLimit = proto.Uint32(o.GhostLimit)
	}
	if o.Root != "" {
		opts.Root = proto.String(o.Root)
	}
	lockNetwork(opts, o.Lock)
	return &rpc.CriuReq{Type: rpc.CriuReqType_RESTORE.Enum(), Opts: opts}, nil
}

// logLevel is CRIU's debug level. At lower levels its log does not say what
// failed, and on tmpfs it costs nothing that can be measured.
const logLevel = 4

// common holds what dump and restore share. The cgroup mode is a pointer on
// purpose: "ignore" is 0, and must be on the wire to override manage_cgroups.
func common(opts *rpc.CriuOpts, d directories, log string, mode migrate.CgroupMode) error {
	cg, err := cgroupMode(mode)
	if err != nil {
		return err
	}
	opts.ImagesDirFd = proto.Int32(int32(d.images))
	opts.WorkDirFd = proto.Int32(int32(d.work))
	opts.LogLevel = proto.Int32(logLevel)
	opts.LogFile = proto.String(log)
	opts.NotifyScripts = proto.Bool(true)
	opts.ManageCgroups = proto.Bool(cg != rpc.CriuCgMode_IGNORE)
	opts.ManageCgroupsMode = cg.Enum()
	return nil
}

// addMounts adds the mounts that opts does not have a word about yet, or not the
// last.
func addMounts(opts *rpc.CriuOpts, mounts []ExternalMount) {
	for _, m := range mounts {
		i := slices.IndexFunc(opts.ExtMnt, func(e *rpc.ExtMountMap) bool { return e.GetKey() == m.Key })
		entry := &rpc.ExtMountMap{Key: proto.String(m.Key), Val: proto.String(m.Value)}
		switch {
		case i < 0:
			opts.ExtMnt = append(opts.ExtMnt, entry)
		case m.Own:
			opts.ExtMnt[i] = entry
		}
	}
}

// emptyNet has CRIU make the network namespace, and leave what is in it to
// somebody else.
func emptyNet(opts *rpc.CriuOpts, empty bool) {
	if empty {
		opts.EmptyNs = proto.Uint32(opts.GetEmptyNs() | unix.CLONE_NEWNET)
	}
}

func lockNetwork(opts *rpc.CriuOpts, l Lock) {
	if l != LockIPTables {
		opts.NetworkLock = rpc.CriuNetworkLockMethod(l).Enum()
	}
}

// set leaves a false option off the wire, where it means CRIU's default.
func set(on bool) *bool {
	if !on {
		return nil
	}
	return &on
}

// cgroupMode translates a mode; [migrate.CgroupModes] is in the enum's order.
func cgroupMode(m migrate.CgroupMode) (rpc.CriuCgMode, error) {
	i := slices.Index(migrate.CgroupModes, cmp.Or(m, "ignore"))
	if i < 0 {
		return 0, fmt.Errorf("manage-cgroups-mode %.40q: not one of %q", m, migrate.CgroupModes)
	}
	return rpc.CriuCgMode(i), nil
}
