package predump

import (
	"fmt"

	"migrate"
)

// Choose returns the tracker to use and why it is not a better one, or not the
// one that was asked for; else the reason is empty. softDirty is CRIU's own
// answer about the source's kernel: without, its pre-dump fails, and is never
// asked for. uffd is [Probe]'s.
func Choose(asked migrate.Tracker, softDirty bool, uffd error) (migrate.Tracker, string) {
	const noSoftDirty = "the kernel has no soft-dirty tracking (CONFIG_MEM_SOFT_DIRTY)"
	switch {
	case asked == migrate.TrackerHash || asked == migrate.TrackerNone:
		return asked, ""
	case asked == migrate.TrackerUffdWP && uffd == nil:
		return asked, ""
	case softDirty && asked == migrate.TrackerUffdWP:
		return migrate.TrackerSoftDirty, fmt.Sprintf("no write protection: %v", uffd)
	case softDirty:
		return migrate.TrackerSoftDirty, ""
	case uffd == nil:
		return migrate.TrackerUffdWP, noSoftDirty
	}
	return migrate.TrackerHash, fmt.Sprintf("%s; no write protection: %v", noSoftDirty, uffd)
}
