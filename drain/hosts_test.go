package drain

import (
	"testing"

	"migrate"
)

func TestJudge(t *testing.T) {
	at := func(p migrate.Phase) *Trace { return &Trace{Known: true, Phase: p} }
	busy := func(p migrate.Phase) *Trace { return &Trace{Known: true, Phase: p, Busy: true} }
	none, starting, damaged := &Trace{}, &Trace{Busy: true}, &Trace{Damaged: true}
	for _, c := range []struct {
		name           string
		source, target *Trace
		want           Fate
	}{
		{"nobody answers", nil, nil, Undecided},
		{"never began", none, none, Stayed},
		{"about to begin", starting, none, Undecided},
		{"copying", busy(migrate.PreCopy), busy(migrate.Prepare), Undecided},
		{"dead before the commit point, not yet put right", at(migrate.Freeze), at(migrate.Restore), Undecided},
		{"rolled back", at(migrate.RolledBack), nil, Stayed},
		{"being rolled back", busy(migrate.RolledBack), nil, Undecided},
		{"in doubt", at(migrate.Commit), nil, Undecided},
		{"in doubt, the target runs it", at(migrate.Commit), at(migrate.Finish), Undecided}, // the source will hear so
		{"the target runs it", at(migrate.Finish), at(migrate.Finish), Moved},
		{"over", at(migrate.Done), nil, Moved},
		{"source gone, target has it", nil, at(migrate.Done), Moved},
		{"source gone, target fills it", nil, at(migrate.Finish), Moved},
		{"source gone, target holds it", nil, at(migrate.Held), Undecided},
		{"source gone, target rolled back", nil, at(migrate.RolledBack), Undecided},
		{"source's journal is lost", none, at(migrate.Done), Moved},
		{"source's record is damaged", damaged, at(migrate.Done), Unclear},
	} {
		if got := Judge(c.source, c.target); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
