package criu

import (
	"fmt"
	"strconv"
	"strings"
)

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

// ParseVersion reads "4.2.1", "3.17" or "v4.2".
func ParseVersion(s string) (Version, error) {
	parts := strings.Split(strings.TrimPrefix(s, "v"), ".")
	if len(parts) < 2 || len(parts) > 3 {
		return 0, fmt.Errorf("criu version %.40q: want MAJOR.MINOR or MAJOR.MINOR.SUBLEVEL", s)
	}
	v := 0
	for i := range 3 {
		n := 0
		if i < len(parts) {
			var err error
			if n, err = strconv.Atoi(parts[i]); err != nil || n < 0 || n > 99 {
				return 0, fmt.Errorf("criu version %.40q: %.10q is not a number from 0 to 99", s, parts[i])
			}
		}
		v = v*100 + n
	}
	return Version(v), nil
}
