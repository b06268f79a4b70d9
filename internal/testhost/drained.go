package testhost

import (
	"encoding/json"
	"fmt"
	"strings"

	"migrate/drain"
)

// Drained is what "migrate drain --json", or undrain, has told.
type Drained struct {
	Plans    []drain.Record
	Steps    []drain.Step
	Progress int // lines of it
	Result   drain.Record
}

// Drain reads it.
func Drain(output string) (d Drained, err error) {
	for line := range strings.Lines(output) {
		var kind struct{ Type string }
		if err := json.Unmarshal([]byte(line), &kind); err != nil {
			return d, fmt.Errorf("%s: %w", line, err)
		}
		if err := d.take(kind.Type, []byte(line)); err != nil {
			return d, fmt.Errorf("%s: %w", line, err)
		}
	}
	return d, nil
}

func (d *Drained) take(kind string, line []byte) error {
	switch kind {
	case "plan":
		d.Plans = append(d.Plans, drain.Record{})
		return json.Unmarshal(line, &d.Plans[len(d.Plans)-1])
	case "drain":
		return json.Unmarshal(line, &d.Result)
	case "step":
		d.Steps = append(d.Steps, drain.Step{})
		return json.Unmarshal(line, &d.Steps[len(d.Steps)-1])
	case "drain-progress":
		d.Progress++
	}
	return nil // the events of moves
}

// AtOnce returns how many moves were under way at a time, at most. Steps that
// say something else are an error.
func (d Drained) AtOnce() (most int, err error) {
	now := map[string]bool{}
	for _, s := range d.Steps {
		if delete(now, s.Workload); s.Step == "begin" {
			now[s.Workload] = true
		}
		if most = max(most, len(now)); len(now) != s.Running {
			return most, fmt.Errorf("%d moves under way, the step says %d: %+v", len(now), s.Running, s)
		}
	}
	return most, nil
}
