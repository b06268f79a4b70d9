package criu

import "fmt"

// Version is CRIU's version as one number: major*10000 + minor*100 + sublevel.
type Version int

// MinVersion is the oldest CRIU that is accepted. 3.17 is the first that has
// the RPC field network_lock (nftables), PTRACE_GET_RSEQ_CONFIGURATION for
// current C libraries, and cgroup v2 freezing together.
const MinVersion Version = 31700

// widePages is the first version whose page server speaks 64-bit page counts
// (CRIU commit 7e0da4d97).
const widePages Version = 40200

// String returns the version as CRIU prints it: "3.17" or "4.2.1".
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d", v/10000, v/100%100)
	if v%100 != 0 {
		s += fmt.Sprintf(".%d", v%100)
	}
	return s
}
