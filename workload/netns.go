package workload

import (
	"fmt"
	"os"
	"slices"

	"migrate/workload/proc"
)

// NetworkSharers returns the processes that are in the network namespace of root and
// not of its tree. Whoever entered the tree's own PID namespace is left out: see
// [CodeJoined].
func NetworkSharers(root int) ([]proc.Process, error) {
	ours, err := proc.ReadNamespaces(root)
	if err != nil {
		return nil, err
	}
	us, err := proc.ReadNamespaces(os.Getpid())
	if err != nil {
		return nil, err
	}
	all, err := proc.All()
	if err != nil {
		return nil, err
	}
	inTree := map[int]bool{}
	for _, p := range proc.Tree(all, root) {
		inTree[p.PID] = true
	}
	return slices.DeleteFunc(all, func(p proc.Process) bool {
		if p.Kernel || inTree[p.PID] || namespaceOf(p.PID, "net") != ours["net"] {
			return true
		}
		return ours["pid"] != us["pid"] && namespaceOf(p.PID, "pid") == ours["pid"]
	}), nil
}

// namespaceOf returns the inode of a namespace of a process, 0 if it has ended.
func namespaceOf(pid int, kind string) uint64 {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return 0
	}
	inode, _ := proc.Inode(link)
	return inode
}
