package drain

import (
	"cmp"
	"fmt"
	"slices"

	"migrate"
)

// Strategy says which of the hosts that can take a workload gets it.
type Strategy string

// The strategies.
const (
	Spread Strategy = "spread" // the one that the plan has taken up least
	Pack   Strategy = "pack"   // the one that is fullest then, so that others stay free
)

// Room is a target as [Place] sees it.
type Room struct {
	Name     string
	Labels   map[string]string
	Memory   uint64           // bytes free, of which a move needs some only on its way
	Capacity uint64           // bytes that workloads may still take by somebody's limit; NoLimit without one
	CPUs     float64          // processors free; below 0 is no limit
	Slots    int              // workloads that may still be placed; below 0 is no limit
	Groups   map[string]bool  // anti-affinity groups of what is there
	Out      *migrate.Finding // why it takes nothing at all
}

// NoLimit is a capacity that nobody has limited.
const NoLimit = ^uint64(0)

// Task is a workload that needs a place.
type Task struct {
	Ref      string
	Memory   uint64
	CPUs     float64
	Priority int
	Group    string                     // of anti-affinity: no two on one host; "" is none
	Needs    Selector                   // of the target's labels
	Blocked  map[string]migrate.Finding // what a preflight with this target found, by its name
}

// A Choice is what [Place] decided for one workload.
type Choice struct {
	Workload string      `json:"workload"`
	Target   string      `json:"target"`   // "" if none can take it
	Why      string      `json:"why"`      // one line
	Rejected []Rejection `json:"rejected"` // every target if none can take it; else the first manyRejected
}

// Rejection is why a target did not come into question.
type Rejection struct {
	Target string `json:"target"`
	Code   string `json:"code"` // a stable word: "memory", "capacity", "cpu", "full", "anti-affinity", "labels", or of preflight
	What   string `json:"what"`
}

// transit returns the bytes that a move needs on its way, besides what the
// workload takes when it has arrived.
func transit(memory uint64) uint64 { return 2*migrate.StoreReservation(memory) - memory }

// space is a Room with what the plan has put there.
type space struct {
	Room
	taken   uint64  // bytes
	transit uint64  // of the move that needs most
	cpus    float64 // taken
	count   int
	groups  map[string]bool
}

// Place decides where workloads go. It is a pure function: the same workloads,
// hosts and strategy give the same choices, in the order of the workloads,
// whatever the order of hosts. The most important and then the largest choose
// first. Hosts are never filled beyond what they have.
func Place(tasks []Task, rooms []Room, strategy Strategy) []Choice {
	spaces := make([]*space, len(rooms))
	for i, r := range rooms {
		spaces[i] = &space{Room: r, groups: map[string]bool{}}
	}
	slices.SortFunc(spaces, func(a, b *space) int { return cmp.Compare(a.Name, b.Name) })
	choices := make([]Choice, len(tasks))
	for _, i := range turns(tasks) {
		choices[i] = place(&tasks[i], spaces, strategy)
	}
	return choices
}

// turns returns in which order tasks choose.
func turns(tasks []Task) []int {
	order := make([]int, len(tasks))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int {
		a, b := &tasks[x], &tasks[y]
		return cmp.Or(-cmp.Compare(a.Priority, b.Priority), -cmp.Compare(a.Memory, b.Memory), cmp.Compare(a.Ref, b.Ref))
	})
	return order
}

func place(t *Task, spaces []*space, strategy Strategy) Choice {
	c := Choice{Workload: t.Ref}
	var best *space
	var rejected []*space
	for _, s := range spaces {
		switch {
		case s.obstacle(t) != "":
			rejected = append(rejected, s)
		case best == nil || s.better(best, t, strategy):
			best = s
		}
	}
	if best == nil {
		c.Why, c.Rejected = nowhere(len(spaces)), reasons(t, rejected)
		return c
	}
	c.Rejected = reasons(t, rejected[:min(len(rejected), manyRejected)])
	best.take(t)
	c.Target, c.Why = best.Name, best.why(len(spaces)-len(rejected), strategy)
	return c
}

// manyRejected is how many reasons are told of a workload that has a place.
const manyRejected = 16

func nowhere(hosts int) string {
	switch hosts {
	case 0:
		return "there is no target"
	case 1:
		return "the only target cannot take it"
	}
	return fmt.Sprintf("none of %d targets can take it", hosts)
}

// full returns how much of the host's room the plan takes up with t, 0 to 1.
func (s *space) full(t *Task) float64 {
	room := min(s.Memory, s.Capacity)
	if room == 0 {
		return 1
	}
	return float64(s.taken+t.Memory) / float64(room)
}

// better reports whether s is to be preferred to o. Spaces come in the order of
// their names, so of equals the first stays.
func (s *space) better(o *space, t *Task, strategy Strategy) bool {
	a, b := s.full(t), o.full(t)
	if strategy == Pack {
		return a > b
	}
	if a != b {
		return a < b
	}
	return s.count < o.count
}

func (s *space) take(t *Task) {
	s.taken += t.Memory
	s.transit = max(s.transit, transit(t.Memory))
	s.cpus += t.CPUs
	s.count++
	if t.Group != "" {
		s.groups[t.Group] = true
	}
}

// why tells the reason of a choice, after it.
func (s *space) why(fit int, strategy Strategy) string {
	full := 100 * s.full(&Task{})
	switch {
	case fit == 1:
		return fmt.Sprintf("the only target that can take it; %.0f%% of its room is taken then", full)
	case strategy == Pack:
		return fmt.Sprintf("fullest of %d targets that can take it: %.0f%% of its room is taken then", fit, full)
	}
	return fmt.Sprintf("emptiest of %d targets that can take it: %.0f%% of its room is taken then", fit, full)
}
