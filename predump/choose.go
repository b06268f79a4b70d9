package predump

import "migrate"

// Choose returns the tracker to use and why it is not a better one; the reason
// is empty if it is the one that was asked for. softDirty is CRIU's own answer
// about the source's kernel. CRIU's pre-dump needs soft-dirty and fails
// without, so no kernel is ever asked for one: hash passes need nothing.
func Choose(asked migrate.Tracker, softDirty bool) (migrate.Tracker, string) {
	switch asked {
	case migrate.TrackerHash, migrate.TrackerNone:
		return asked, ""
	}
	if softDirty {
		return migrate.TrackerHash, "whole passes compared by hash; the kernel's soft-dirty tracking is not used"
	}
	return migrate.TrackerHash, "the kernel has no soft-dirty tracking (CONFIG_MEM_SOFT_DIRTY); whole passes compared by hash"
}
