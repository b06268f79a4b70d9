package drain

import "fmt"

// obstacle returns the code of the first reason why a host cannot take a task,
// "" if it can.
func (s *space) obstacle(t *Task) string {
	f, blocked := t.Blocked[s.Name]
	switch {
	case s.Out != nil:
		return s.Out.Code
	case blocked:
		return f.Code
	case !t.Needs.Match(s.Labels):
		return "labels"
	case t.Group != "" && (s.Groups[t.Group] || s.groups[t.Group]):
		return "anti-affinity"
	case s.Slots >= 0 && s.count >= s.Slots:
		return "full"
	case s.taken+t.Memory > s.Capacity:
		return "capacity"
	case s.taken+t.Memory+s.way(t) > s.Memory:
		return "memory"
	case s.CPUs >= 0 && s.cpus+t.CPUs > s.CPUs:
		return "cpu"
	}
	return ""
}

// way returns what the host must have free for the one move that needs most.
func (s *space) way(t *Task) uint64 { return max(s.transit, transit(t.Memory)) }

// reasons tells for each of some hosts why it cannot take a task.
func reasons(t *Task, spaces []*space) []Rejection {
	list := make([]Rejection, len(spaces))
	for i, s := range spaces {
		code := s.obstacle(t)
		list[i] = Rejection{Target: s.Name, Code: code, What: s.reason(t, code)}
	}
	return list
}

func (s *space) reason(t *Task, code string) string {
	if s.Out != nil {
		return s.Out.What
	}
	if f, blocked := t.Blocked[s.Name]; blocked {
		return f.What
	}
	switch code {
	case "labels":
		return fmt.Sprintf("its labels are not %s", t.Needs)
	case "anti-affinity":
		return fmt.Sprintf("another workload of group %s is there", t.Group)
	case "full":
		return fmt.Sprintf("%d workloads may come, and %d are to", s.Slots, s.count)
	case "capacity":
		return fmt.Sprintf("needs %d MiB, its capacity leaves %d MiB", t.Memory>>20, left(s.Capacity, s.taken)>>20)
	case "memory":
		return fmt.Sprintf("needs %d MiB and %d MiB on its way, %d MiB are free", t.Memory>>20, s.way(t)>>20, left(s.Memory, s.taken)>>20)
	}
	return fmt.Sprintf("needs %.2f processors, %.2f are free", t.CPUs, max(0, s.CPUs-s.cpus))
}

func left(room, taken uint64) uint64 { return room - min(room, taken) }

// needed returns the bytes to have reserved on a host for tasks that go there.
func needed(memory []uint64) uint64 {
	if len(memory) == 0 {
		return 0
	}
	var sum, way uint64
	for _, m := range memory {
		sum += m
		way = max(way, transit(m))
	}
	return sum + way
}
