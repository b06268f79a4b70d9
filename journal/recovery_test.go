package journal

import (
	"testing"

	"migrate"
)

var phases = []migrate.Phase{
	migrate.Connect, migrate.Preflight, migrate.Prepare, migrate.PreCopy, migrate.Freeze, migrate.StopAndCopy,
	migrate.Restore, migrate.Held, migrate.Commit, migrate.Finish, migrate.Done, migrate.RolledBack,
}

func TestRecovery(t *testing.T) {
	want := map[migrate.Side][]Action{ // in the order of phases
		migrate.Source: {Thaw, Thaw, Thaw, Thaw, Thaw, Thaw, Thaw, AskOperator, AskPeer, Finish, Nothing, Nothing},
		migrate.Target: {Discard, Discard, Discard, Discard, Discard, Discard, Discard, AskPeer, Resume, Finish, Nothing, Nothing},
	}
	for side, actions := range want {
		for i, p := range phases {
			if got := Recovery(side, p); got != actions[i] {
				t.Errorf("Recovery(%s, %v) = %v, want %v", side, p, got, actions[i])
			}
		}
	}
	for _, side := range []migrate.Side{migrate.Source, migrate.Target, "", "x"} {
		for _, p := range []migrate.Phase{0, 13, 255} {
			if got := Recovery(side, p); got != AskOperator {
				t.Errorf("Recovery(%q, %v) = %v, want %v", side, p, got, AskOperator)
			}
		}
	}
}

// TestVerdict covers every pair of a side in doubt and what it can hear.
func TestVerdict(t *testing.T) {
	const op = AskOperator
	for _, c := range []struct {
		side       migrate.Side
		mine       migrate.Phase
		live, dead []Action // by the peer's phase, in the order of phases
	}{
		{
			migrate.Source, migrate.Commit,
			[]Action{op, op, op, op, op, op, op, SendCommit, Wait, Finish, Finish, Thaw},
			[]Action{op, op, op, op, op, op, op, SendCommit, Wait, Finish, Finish, Thaw},
		},
		{
			migrate.Target, migrate.Held,
			[]Action{Wait, Wait, Wait, Wait, Wait, Wait, Wait, op, Resume, Resume, Resume, Discard},
			[]Action{Discard, Discard, Discard, Discard, Discard, Discard, Discard, op, Resume, Resume, Resume, Discard},
		},
	} {
		for i, p := range phases {
			for live, want := range map[bool]Action{true: c.live[i], false: c.dead[i]} {
				peer := Peer{Present, p, live}
				if got := Verdict(c.side, c.mine, peer); got != want {
					t.Errorf("Verdict(%s, %v, %v) = %v, want %v", c.side, c.mine, peer, got, want)
				}
			}
		}
		for answer, want := range map[Answer]Action{Silent: Wait, Absent: op, Damaged: op, 0: op, 99: op} {
			if got := Verdict(c.side, c.mine, Peer{Answer: answer}); got != want {
				t.Errorf("Verdict(%s, %v, %v) = %v, want %v", c.side, c.mine, answer, got, want)
			}
		}
	}
}

// TestVerdictOnlyInDoubt: elsewhere the peer has no say.
func TestVerdictOnlyInDoubt(t *testing.T) {
	for _, side := range []migrate.Side{migrate.Source, migrate.Target} {
		for _, mine := range phases {
			own := Recovery(side, mine)
			for _, peer := range phases {
				if got := Verdict(side, mine, Peer{Present, peer, false}); own != AskPeer && got != own {
					t.Errorf("Verdict(%s, %v, peer %v) = %v, want %v", side, mine, peer, got, own)
				}
			}
		}
	}
}
