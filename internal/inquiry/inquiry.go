// Package inquiry turns what a journal knows of a migration into the answer
// to a peer in doubt, and such an answer back into what the journal's tables
// decide on. It is apart from both, because neither the journal nor the
// protocol knows the other.
package inquiry

import (
	"migrate"
	"migrate/journal"
	"migrate/transport"
)

// State answers an Ask about one side of a migration with what its journal
// says.
func State(id migrate.ID, side migrate.Side, p journal.Peer) transport.State {
	return transport.State{
		ID: id, Side: side, Known: p.Answer != journal.Absent,
		Damaged: p.Answer == journal.Damaged, Phase: p.Phase, Busy: p.Live,
	}
}

// Peer reads such an answer.
func Peer(s transport.State) journal.Peer {
	p := journal.Peer{Answer: journal.Present, Phase: s.Phase, Live: s.Busy}
	switch {
	case s.Damaged:
		p.Answer = journal.Damaged
	case !s.Known:
		p.Answer = journal.Absent
	}
	return p
}
