package migrate

import (
	"errors"
	"fmt"
)

// Throttle says how a workload that writes faster than its memory can be sent
// is slowed: by Initial percent of its processor time at first, by Step more
// after each round that does not help, never by more than Max. The zero value
// never slows it.
type Throttle struct {
	Initial int `json:"initial"`
	Step    int `json:"step"`
	Max     int `json:"max"`
}

// DefaultThrottle is what auto-converge does unless it is told otherwise.
var DefaultThrottle = Throttle{Initial: 20, Step: 10, Max: 95}

// On reports whether t ever slows a workload.
func (t Throttle) On() bool { return t != Throttle{} }

// String returns t as [ParseThrottle] reads it.
func (t Throttle) String() string {
	if !t.On() {
		return "off"
	}
	return fmt.Sprintf("%d,%d,%d", t.Initial, t.Step, t.Max)
}

// ParseThrottle reads "INITIAL,STEP,MAX" in percent, "on" for the default, or "off".
func ParseThrottle(s string) (Throttle, error) {
	var t Throttle
	switch s {
	case "off":
		return t, nil
	case "on":
		return DefaultThrottle, nil
	}
	var rest string
	if n, _ := fmt.Sscanf(s, "%d,%d,%d%s", &t.Initial, &t.Step, &t.Max, &rest); n != 3 || !t.On() {
		return Throttle{}, fmt.Errorf("%.40q is not INITIAL,STEP,MAX in percent, such as %v", s, DefaultThrottle)
	}
	return t, t.Validate()
}

// Validate reports percentages that make no sense.
func (t Throttle) Validate() error {
	if !t.On() {
		return nil
	}
	if t.Initial < 1 || t.Step < 1 || t.Max > 99 || t.Initial > t.Max {
		return errors.New("auto-converge: want 1 <= initial <= max <= 99 and step >= 1")
	}
	return nil
}
