package journal

import (
	"errors"
	"fmt"
	"io/fs"

	"migrate"
)

// Answer says what is known of a peer's record. Values are sent to the peer:
// never renumber them.
type Answer uint8

// The answers.
const (
	Silent  Answer = 1 // the peer cannot be reached
	Absent  Answer = 2 // it has no record of the migration
	Damaged Answer = 3 // it has one that cannot be read
	Present Answer = 4 // it has one
)

// String returns the answer's name.
func (a Answer) String() string {
	switch a {
	case Silent:
		return "silent"
	case Absent:
		return "absent"
	case Damaged:
		return "damaged"
	case Present:
		return "present"
	}
	return fmt.Sprintf("answer(%d)", uint8(a))
}

// Peer is what one side of a migration tells the other when asked.
type Peer struct {
	Answer Answer        `json:"answer"`
	Phase  migrate.Phase `json:"phase,omitempty"` // zero unless Present
	Live   bool          `json:"live"`            // a process holds the record and may still decide
}

// State returns what this host answers a peer that asks about a migration.
//
// A record that is not Live cannot be carried on, only recovered, so its phase
// is looked up while the lock is held: otherwise a process could journal the
// commit point after we read the record and die before we see its lock.
func (j *Journal) State(id migrate.ID, side migrate.Side) (Peer, error) {
	l, err := j.lock(id, side, shared)
	live := errors.Is(err, ErrBusy)
	if err != nil && !live && !errors.Is(err, fs.ErrNotExist) {
		return Peer{}, err
	}
	defer l.release()
	rec, err := j.Get(id, side)
	var damaged *DamagedError
	switch {
	case err == nil:
		return Peer{Answer: Present, Phase: rec.Phase, Live: live}, nil
	case errors.Is(err, fs.ErrNotExist):
		return Peer{Answer: Absent}, nil
	case errors.As(err, &damaged):
		return Peer{Answer: Damaged, Live: live}, nil
	}
	return Peer{}, err
}
