package migrate

// Tree is a file tree that a workload uses, and what a move does about it.
type Tree struct {
	Path     string       `json:"path"` // of a directory or a regular file, the same on both hosts
	Role     TreeRole     `json:"role"`
	Decision TreeDecision `json:"decision"`
	Entries  int64        `json:"entries"` // names in one that is sent, as of preflight
	Bytes    int64        `json:"bytes"`   // that their files take, likewise
	Passes   []TreePass   `json:"passes,omitempty"`
}

// TreeRole says what a tree is to its workload.
type TreeRole string

// The roles.
const (
	TreeRoot  TreeRole = "root"  // the root file system of a container, or what it changed of it
	TreeLayer TreeRole = "layer" // below that, and never changed
	TreeMount TreeRole = "mount" // mounted into a container
	TreeSync  TreeRole = "sync"  // asked for by [Options].Sync
)

// TreeDecision says what a move does about a tree.
type TreeDecision string

// The decisions.
const (
	TreeShared TreeDecision = "shared" // both hosts see the same storage: nothing
	TreeSame   TreeDecision = "same"   // the target has an equal one: nothing
	TreeShip   TreeDecision = "ship"   // it is sent
	TreeBlock  TreeDecision = "block"  // it keeps the workload from moving
)

// TreePass is one pass over a tree that is sent. The last one is of the frozen workload.
type TreePass struct {
	Pass     int    `json:"pass"` // from 1
	Final    bool   `json:"final"`
	Entries  int    `json:"entries"`      // names that were looked at
	Changes  int    `json:"changes"`      // names that were made, changed or removed
	Missed   int    `json:"missed"`       // names that changed under the pass; the next one has them
	Read     int64  `json:"read-bytes"`   // of content
	Data     int64  `json:"data-bytes"`   // of content sent
	Reused   int64  `json:"reused-bytes"` // of content that the target had already
	Walk     Millis `json:"walk-ms"`      // looking at all names
	Duration Millis `json:"duration-ms"`  // until the target had applied it
}
