package migrate

import "time"

// HostState is what a host says of itself to one who plans moves from it or to
// it.
type HostState struct {
	Host      Host     `json:"host"`
	CPUs      int      `json:"cpus"`           // that programs may use
	Promised  uint64   `json:"promised-bytes"` // of the memory available: to moves under way and to drains
	Cordon    *Cordon  `json:"cordon,omitempty"`
	Workloads []Listed `json:"workloads"`          // those that run, by kind and name
	Problems  []string `json:"problems,omitempty"` // what could not be listed, a line each
}

// Find returns the workload KIND:ID.
func (s HostState) Find(ref string) (w Listed, there bool) {
	for _, w := range s.Workloads {
		if w.Ref == ref {
			return w, true
		}
	}
	return Listed{}, false
}

// Listed is a workload as its host lists it.
type Listed struct {
	Ref      string            `json:"ref"` // KIND:ID, as SRC of a move
	Kind     string            `json:"kind"`
	Name     string            `json:"name"`         // unique on the host
	PID      int               `json:"pid"`          // of its first process, in the host's PID namespace
	Start    uint64            `json:"start"`        // when that began, clock ticks after boot: tells a reused number
	Memory   uint64            `json:"memory-bytes"` // what a move carries
	CPU      float64           `json:"cpus"`         // processors that it keeps busy, over its life on this host
	Labels   map[string]string `json:"labels,omitempty"`
	Command  []string          `json:"-"`                  // stays on the host
	Blockers []Finding         `json:"blockers,omitempty"` // what keeps it from moving to any host
}

// ReservationStep is the least by which the reservation of a move rises, in bytes.
const ReservationStep = 64 << 20

// StoreReservation returns the bytes of its store that a target keeps for a move
// at first: the workload may grow while it is copied. Its memory comes on top.
func StoreReservation(memory uint64) uint64 { return memory + memory/4 + ReservationStep }

// Cordon is a host's refusal to receive workloads, and who drains it.
type Cordon struct {
	Since  time.Time `json:"since"`
	By     string    `json:"by"`               // host of who asked for it
	Drain  ID        `json:"drain,omitempty"`  // that empties the host, or emptied it last
	Until  time.Time `json:"until,omitzero"`   // when the drain counts as dead, unless it says that it lives
	Reason string    `json:"reason,omitempty"` // in the words of who asked for it
}

// Claimed reports whether a drain other than id is at work on the host.
func (c *Cordon) Claimed(id ID, now time.Time) bool {
	return c != nil && c.Drain != "" && c.Drain != id && now.Before(c.Until)
}
