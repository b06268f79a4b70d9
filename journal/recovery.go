package journal

import (
	"fmt"

	"migrate"
)

// Action is what has to be done about a migration. Each one is safe to repeat:
// a crash during an action leads to the same action again.
type Action uint8

// The actions.
const (
	Nothing     Action = 1 // it is over
	Thaw        Action = 2 // source: let the tree run, release everything, then journal rolled-back
	Discard     Action = 3 // target: remove the copy and the store, then journal rolled-back
	AskPeer     Action = 4 // ask for the peer's [Peer] and do as [Verdict] says; touch nothing before
	Resume      Action = 5 // target: journal commit, let the tree run unless it runs already, restoring it again if need be, then finish
	Finish      Action = 6 // source: journal finish, kill the frozen copy, then done; target: clean up behind the running tree, then done
	SendCommit  Action = 7 // source: send commit again
	Wait        Action = 8 // stay frozen, ask again later
	AskOperator Action = 9 // no table can decide; stay frozen and explain
)

var actionNames = map[Action]string{
	Nothing: "nothing", Thaw: "thaw", Discard: "discard", AskPeer: "ask-peer", Resume: "resume",
	Finish: "finish", SendCommit: "send-commit", Wait: "wait", AskOperator: "ask-operator",
}

// String returns the action's name.
func (a Action) String() string {
	if s, ok := actionNames[a]; ok {
		return s
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// recovery says what to do with a record that no live process holds. What is
// absent cannot come about: see [AskOperator].
var recovery = map[migrate.Side]map[migrate.Phase]Action{
	migrate.Source: {
		migrate.Connect: Thaw, migrate.Preflight: Thaw, migrate.Prepare: Thaw, migrate.PreCopy: Thaw,
		migrate.Freeze: Thaw, migrate.StopAndCopy: Thaw, migrate.Restore: Thaw,
		migrate.Commit: AskPeer,
		migrate.Finish: Finish,
		migrate.Done:   Nothing, migrate.RolledBack: Nothing,
	},
	migrate.Target: {
		migrate.Connect: Discard, migrate.Preflight: Discard, migrate.Prepare: Discard, migrate.PreCopy: Discard,
		migrate.Freeze: Discard, migrate.StopAndCopy: Discard, migrate.Restore: Discard,
		migrate.Held:   AskPeer,
		migrate.Commit: Resume,
		migrate.Finish: Finish,
		migrate.Done:   Nothing, migrate.RolledBack: Nothing,
	},
}

// Recovery returns what to do with a record whose process has died. The caller
// holds the record's lock ([Journal.Take]).
func Recovery(side migrate.Side, phase migrate.Phase) Action {
	if a, ok := recovery[side][phase]; ok {
		return a
	}
	return AskOperator
}

// Verdict returns what a side in doubt does, given what it learnt about its
// peer: the source in commit, the target in held. In any other phase a side
// does not depend on its peer and the answer is that of [Recovery]. A process
// that is in doubt while alive uses the same table.
func Verdict(side migrate.Side, mine migrate.Phase, peer Peer) Action {
	switch a := Recovery(side, mine); {
	case a != AskPeer:
		return a
	case peer.Answer == Silent:
		return Wait
	case peer.Answer != Present:
		// The peer had a record when it voted, or got the vote, so an absent or
		// damaged one was lost. Presumed abort (no record means rolled back)
		// would be wrong on either side: a source whose journal was lost may
		// have passed the commit point and killed its copy, and a target whose
		// journal was lost may be running one.
		return AskOperator
	case side == migrate.Source:
		return sourceVerdict(peer)
	}
	return targetVerdict(peer)
}

// sourceVerdict decides for a source that has passed the commit point and did
// not hear that the target runs.
func sourceVerdict(target Peer) Action {
	switch target.Phase {
	case migrate.Held:
		return SendCommit
	case migrate.Commit:
		// It will run, but does not yet. Until it does, our frozen copy is the
		// only one that could be saved should its restore be impossible.
		return Wait
	case migrate.Finish, migrate.Done:
		return Finish
	case migrate.RolledBack:
		return Thaw // refused: it never ran and never will
	}
	return AskOperator // it voted, so it cannot be in an earlier phase
}

// targetVerdict decides for a target that voted yes and did not hear the
// verdict.
func targetVerdict(source Peer) Action {
	switch source.Phase {
	case migrate.Commit, migrate.Finish, migrate.Done:
		return Resume
	case migrate.RolledBack:
		return Discard
	}
	switch {
	case Recovery(migrate.Source, source.Phase) != Thaw:
		return AskOperator
	case source.Live:
		return Wait // it may still decide either way
	}
	return Discard // dead before the commit point: its recovery can only thaw
}
