package drain

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"migrate"
)

// Action is what to do with a workload that cannot be moved live.
type Action string

// The actions.
const (
	Live Action = "live" // it must be: otherwise the drain does not begin
	Stop Action = "stop" // end it, after all that can be moved has been
	Skip Action = "skip" // leave it where it is
)

// Order of moves.
const (
	Smallest = "smallest"
	Largest  = "largest"
	Priority = "priority"
	ByName   = "name"
)

// What to do when a workload could not be moved, after all tries.
const (
	Continue = "continue"
	Halt     = "stop"
)

// Labels that a drain goes by.
const (
	LabelAction   = "drain"         // live, stop or skip, for this workload
	LabelPriority = "priority"      // a number; higher goes first
	LabelGroup    = "anti-affinity" // no two of a group on one host
	LabelCPUs     = "cpus"          // processors it needs, in place of what it was seen to use
	LabelTarget   = "target/"       // in front of a label that the target must have
	LabelTCP      = "tcp"           // see [migrate.Options], for this workload
	LabelSync     = "sync"          // likewise, with colons between; no label has commas
)

// Options are a drain's settings.
type Options struct {
	Move         migrate.Options   `json:"move"`
	Selector     string            `json:"selector,omitempty"`
	Kinds        []string          `json:"kinds,omitempty"`   // none is all
	Exclude      []string          `json:"exclude,omitempty"` // KIND:ID or names
	Strategy     Strategy          `json:"strategy"`
	Order        string            `json:"order"`
	MaxParallel  int               `json:"max-parallel"`
	MaxPerTarget int               `json:"max-per-target"` // at a time; 0 is no limit
	Bandwidth    int64             `json:"bandwidth"`      // bytes per second of all moves together; 0 is no cap
	Retries      int               `json:"retries"`        // after a first try
	Timeout      time.Duration     `json:"timeout"`        // of the whole drain; 0 is none
	OnFailure    string            `json:"on-failure"`
	Action       Action            `json:"action"`
	Actions      map[string]Action `json:"actions,omitempty"` // by KIND:ID or name
	StopTimeout  time.Duration     `json:"stop-timeout"`
	Reason       string            `json:"reason,omitempty"` // for the cordon
}

// Validate reports every problem.
func (o Options) Validate() error {
	_, selector := ParseSelector(o.Selector)
	errs := []error{
		selector, o.Move.Validate(),
		oneOf("strategy", o.Strategy, Spread, Pack),
		oneOf("order", o.Order, Smallest, Largest, Priority, ByName),
		oneOf("on-failure", o.OnFailure, Continue, Halt),
		oneOf("action", o.Action, Live, Stop, Skip),
		atLeast("max-parallel", o.MaxParallel, 1), atLeast("max-per-target", o.MaxPerTarget, 0),
		atLeast("bandwidth", o.Bandwidth, 0), atLeast("retries", o.Retries, 0), atLeast("timeout", o.Timeout, 0),
		atLeast("stop-timeout", o.StopTimeout, 0),
	}
	for who, a := range o.Actions {
		errs = append(errs, oneOf("action: "+who, a, Live, Stop, Skip))
	}
	return errors.Join(errs...)
}

func oneOf[T ~string](name string, got T, want ...T) error {
	if slices.Contains(want, got) {
		return nil
	}
	return fmt.Errorf("%s: %.40q is not one of %q", name, got, want)
}

func atLeast[T ~int | ~int64](name string, v, least T) error {
	if v >= least {
		return nil
	}
	return fmt.Errorf("%s: must be at least %d", name, least)
}

// chosen reports whether a workload is among those to be moved.
func (o Options) chosen(w migrate.Listed) bool {
	s, err := ParseSelector(o.Selector)
	if err != nil || !s.Match(w.Labels) {
		return false
	}
	if len(o.Kinds) > 0 && !slices.Contains(o.Kinds, w.Kind) {
		return false
	}
	return !slices.Contains(o.Exclude, w.Ref) && !slices.Contains(o.Exclude, w.Name)
}

// action returns what to do with a workload if it cannot be moved live: the
// command line's word on it, its label's, or that on all.
func (o Options) action(w migrate.Listed) Action {
	for _, who := range []string{w.Ref, w.Name} {
		if a, ok := o.Actions[who]; ok {
			return a
		}
	}
	if a := Action(w.Labels[LabelAction]); oneOf("", a, Live, Stop, Skip) == nil {
		return a
	}
	return o.Action
}

// moveOf returns the settings of one workload's move: what its labels say goes
// before what the drain was told.
func (o Options) moveOf(labels map[string]string) (migrate.Options, error) {
	m := o.Move
	if v, ok := labels[LabelTCP]; ok {
		m.TCP = migrate.TCPPolicy(v)
	}
	if v, ok := labels[LabelSync]; ok {
		m.Sync = strings.FieldsFunc(v, func(r rune) bool { return r == ':' }) // none if it is empty
	}
	return m, m.Validate()
}
