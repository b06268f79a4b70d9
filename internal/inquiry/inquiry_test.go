package inquiry

import (
	"testing"

	"migrate"
	"migrate/journal"
)

// TestRoundTrip sends everything that a journal may say over the wire and back.
func TestRoundTrip(t *testing.T) {
	for _, want := range []journal.Peer{
		{Answer: journal.Absent},
		{Answer: journal.Damaged},
		{Answer: journal.Damaged, Live: true},
		{Answer: journal.Present, Phase: migrate.Held},
		{Answer: journal.Present, Phase: migrate.Commit, Live: true},
	} {
		s := State("00000000000000aa", migrate.Target, want)
		if s.ID != "00000000000000aa" || s.Side != migrate.Target {
			t.Errorf("State(%+v) is about %s, %s", want, s.ID, s.Side)
		}
		if got := Peer(s); got != want {
			t.Errorf("Peer(State(%+v)) = %+v", want, got)
		}
	}
}
