package criu

import (
	"time"

	"migrate"
)

// DumpOptions are the settings of one dump.
type DumpOptions struct {
	PID       int    // root of the tree, in CRIU's PID namespace
	ImagesDir string // existing directory for the images
	WorkDir   string // existing directory for dump.log and statistics; default ImagesDir

	ManageCgroupsMode migrate.CgroupMode // default "ignore"; always sent
	// FreezeCgroup is the cgroup (v2, or v1 freezer) that holds the tree and
	// nothing else. It must be given if the cgroup is frozen already: CRIU then
	// thaws it while it holds the tasks, and freezes it again at the end.
	FreezeCgroup string

	TCPEstablished  bool // carry established TCP connections
	TCPClose        bool // dump established TCP connections as closed ones
	ShellJob        bool // the root's session leader is outside the tree
	FileLocks       bool
	LinkRemap       bool   // link unlinked files that have other names back into place
	GhostLimit      uint32 // largest deleted file to carry, bytes; 0 is CRIU's default (1 MiB)
	ExtUnixSockets  bool   // allow unix datagram peers outside the tree
	External        []string
	LeaveRunning    bool // let the tree run on after a good dump
	OrphanPTSMaster bool
	Root            string          // of the tree, if it has a mount namespace of its own: a directory on this host
	Mounts          []ExternalMount // of the host in the tree's mount namespace
	EmptyNet        bool            // leave out what is in the tree's network namespace
	Lock            Lock            // of the network while the tree is held
	Timeout         time.Duration   // for freezing the tree, whole seconds; 0 is CRIU's default (10 s)

	// TrackMem has the kernel note from now on which pages change, and CRIU leave
	// out those that did not change since Parent. The kernel must have soft-dirty
	// ([Features].MemTrack).
	TrackMem bool
	// Parent is the images directory of the pre-dump before, relative to ImagesDir.
	// Only its inventory.img is read ([KeepInventory]): whether there are pages to
	// leave out is what the page server says. CRIU links it into ImagesDir as
	// "parent"; with PageSocket that link is gone before [PostDump] is asked.
	Parent string

	// PageSocket, if not nil, is the index in [ChildOptions].Files of the socket to
	// the page server ([PageSocket]). Nil writes pages to ImagesDir.
	PageSocket *int
}

// PreDumpOptions are the settings of one pre-dump, which has no hooks.
type PreDumpOptions struct {
	PID       int    // root of the tree, in CRIU's PID namespace
	ImagesDir string // existing directory; of use is only the inventory.img in it afterwards
	WorkDir   string // existing directory for pre-dump.log and statistics; default ImagesDir
	Parent    string // images directory of the pre-dump before, relative to ImagesDir; "" in the first

	// As in DumpOptions. The other settings of a dump say nothing about memory.
	FreezeCgroup string
	External     []string
	Timeout      time.Duration
	PageSocket   *int
}

// RestoreOptions are the settings of one restore.
type RestoreOptions struct {
	ImagesDir string // directory with the images
	WorkDir   string // existing directory for restore.log and statistics; default ImagesDir

	ManageCgroupsMode migrate.CgroupMode // default "ignore": tasks stay in the child's own cgroup ([ChildOptions].Cgroups)
	CgroupRoot        string             // for the other modes: path below which CRIU rebuilds the cgroups

	TCPEstablished  bool
	TCPClose        bool
	ShellJob        bool
	FileLocks       bool
	LinkRemap       bool
	GhostLimit      uint32 // bytes; 0 is CRIU's default (1 MiB)
	ExtUnixSockets  bool
	External        []string
	InheritFDs      []InheritFD
	OrphanPTSMaster bool   // pass the masters of new terminals through the [OrphanPTSMaster] hook
	Root            string // new root directory; it must be a mount point. Default the caller's
	Mounts          []ExternalMount
	EmptyNet        bool // leave what is in the network namespace to the [SetupNamespaces] hook
	// Caller is the program that wants the restore, if it is not this one. What
	// it asked for holds where nothing is said here, and what it said of cgroups
	// and mounts in any case.
	Caller *Caller
	Lock   Lock
	// Lazy leaves out the pages with PageLazy that the images do not hold, and
	// hands the tree's userfaultfds to whoever listens on "lazy-pages.socket" in
	// WorkDir. That has to listen before.
	Lazy bool
	// Sibling makes the restored root a child of the calling process instead of
	// CRIU's. The caller must then reap it, after an abort as well.
	Sibling bool
}

// ExternalMount is a mount that the images only name. At a dump Key is where it
// is in the tree's mount namespace and Value names it; at a restore Key is that
// name and Value the file or directory of the host to be mounted there.
//
// What a [RestoreOptions].Caller says of the same key goes before, unless Own.
type ExternalMount struct {
	Key, Value string
	Own        bool
}

// InheritFD gives the restored tree an open file in place of one that the
// dump recorded.
type InheritFD struct {
	Key  string // "pipe:[INO]", "socket:[INO]", "tty[RDEV:DEV]", or a path without its leading slash
	File int    // index in [ChildOptions].Files
}

// Lock is how CRIU keeps packets from the connections of a tree that it holds
// (criu_network_lock_method in rpc.proto).
type Lock uint8

// The locks. LockSkip is right where no established connection is carried: it
// needs no firewall, and a CRIU that is killed leaves no table behind.
const (
	LockIPTables Lock = 0 // CRIU's default
	LockNFTables Lock = 2
	LockSkip     Lock = 3
)

// knowsSkip is the first CRIU that can be told not to lock.
const knowsSkip Version = 31800

// lock returns the nearest that this version knows.
func (v Version) lock(l Lock) Lock {
	if l == LockSkip && v < knowsSkip {
		return LockNFTables
	}
	return l
}
