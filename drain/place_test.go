package drain

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"migrate"
)

const mib = 1 << 20

func room(name string, memory uint64) Room {
	return Room{Name: name, Memory: memory * mib, Capacity: NoLimit, CPUs: -1, Slots: -1}
}

func task(ref string, memory uint64) Task { return Task{Ref: ref, Memory: memory * mib} }

func needs(s string) Selector {
	sel, err := ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return sel
}

func TestPlace(t *testing.T) {
	limited := func(r Room, change func(*Room)) Room { change(&r); return r }
	with := func(k Task, change func(*Task)) Task { change(&k); return k }
	for _, c := range []struct {
		name     string
		tasks    []Task
		rooms    []Room
		strategy Strategy
		want     string // targets in the order of the tasks, "-" for none
		codes    string // of the last task's rejections
	}{
		{"spread", []Task{task("a", 10), task("b", 10), task("c", 10), task("d", 10)}, []Room{room("X", 1000), room("Y", 1000)}, Spread, "X Y X Y", ""},
		{"spread by room", []Task{task("a", 10), task("b", 10), task("c", 10)}, []Room{room("X", 1000), room("Y", 4000)}, Spread, "Y Y Y", ""},
		{"pack", []Task{task("a", 10), task("b", 10), task("c", 10)}, []Room{room("X", 1000), room("Y", 4000)}, Pack, "X X X", ""},
		{"the largest chooses first", []Task{task("small", 50), task("large", 600)}, []Room{room("X", 1800), room("Y", 700)}, Spread, "Y X", "memory"},
		{"room for the way is needed", []Task{task("a", 500)}, []Room{room("X", 1000)}, Spread, "-", "memory"},
		{"a capacity is for good, not for the way", []Task{task("a", 500)}, []Room{limited(room("X", 2000), func(r *Room) { r.Capacity = 500 * mib })}, Spread, "X", ""},
		{"too large for the first target", []Task{task("a", 500)}, []Room{limited(room("X", 9000), func(r *Room) { r.Capacity = 100 * mib }), room("Y", 9000)}, Spread, "Y", "capacity"},
		{"processors", []Task{with(task("a", 1), func(k *Task) { k.CPUs = 3 }), with(task("b", 1), func(k *Task) { k.CPUs = 2 })},
			[]Room{limited(room("X", 1000), func(r *Room) { r.CPUs = 4 })}, Spread, "X -", "cpu"},
		{"slots", []Task{task("a", 1), task("b", 1)}, []Room{limited(room("X", 1000), func(r *Room) { r.Slots = 1 })}, Spread, "X -", "full"},
		{"anti-affinity", []Task{with(task("a", 1), func(k *Task) { k.Group = "g" }), with(task("b", 1), func(k *Task) { k.Group = "g" }), with(task("c", 1), func(k *Task) { k.Group = "g" })},
			[]Room{room("X", 1000), limited(room("Y", 1000), func(r *Room) { r.Groups = map[string]bool{"g": true} }), room("Z", 1000)}, Spread, "X Z -", "anti-affinity anti-affinity anti-affinity"},
		{"labels", []Task{with(task("a", 1), func(k *Task) { k.Needs = needs("zone=2") })},
			[]Room{room("X", 1000), limited(room("Y", 1000), func(r *Room) { r.Labels = map[string]string{"zone": "2"} })}, Spread, "Y", "labels"},
		{"preflight", []Task{with(task("a", 1), func(k *Task) { k.Blocked = map[string]migrate.Finding{"X": {Code: "cpu", What: "no avx"}} })},
			[]Room{room("X", 1000), room("Y", 1000)}, Spread, "Y", "cpu"},
		{"out", []Task{task("a", 1)}, []Room{limited(room("X", 1000), func(r *Room) { r.Out = &migrate.Finding{Code: "cordoned", What: "X is cordoned"} })}, Spread, "-", "cordoned"},
		{"priority goes before size", []Task{task("large", 600), with(task("vip", 590), func(k *Task) { k.Priority = 1 })}, []Room{limited(room("X", 9000), func(r *Room) { r.Capacity = 700 * mib })}, Spread, "- X", ""},
		{"no target", []Task{task("a", 1)}, nil, Spread, "-", ""},
	} {
		choices := Place(c.tasks, c.rooms, c.strategy)
		var got, codes []string
		for _, ch := range choices {
			got = append(got, cmp.Or(ch.Target, "-"))
		}
		for _, r := range choices[len(choices)-1].Rejected {
			codes = append(codes, r.Code)
		}
		if strings.Join(got, " ") != c.want || strings.Join(codes, " ") != c.codes {
			t.Errorf("%s: %q, last rejected for %q, want %q, %q", c.name, got, codes, c.want, c.codes)
		}
	}
}

// fleet makes up hosts and workloads, the same for the same seed.
func fleet(seed uint64, hosts, workloads int) ([]Task, []Room) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	rooms := make([]Room, hosts)
	for i := range rooms {
		r := room(fmt.Sprintf("host%03d", i), uint64(2000+rnd.IntN(60000)))
		r.Labels = map[string]string{"zone": fmt.Sprint(i % 3)}
		switch rnd.IntN(6) {
		case 0:
			r.Capacity = uint64(rnd.IntN(20000)) * mib
		case 1:
			r.CPUs = float64(rnd.IntN(16))
		case 2:
			r.Slots = rnd.IntN(20)
		case 3:
			r.Groups = map[string]bool{fmt.Sprint("g", rnd.IntN(5)): true}
		case 4:
			if rnd.IntN(4) == 0 {
				r.Out = &migrate.Finding{Code: "cordoned", What: "cordoned"}
			}
		}
		rooms[i] = r
	}
	tasks := make([]Task, workloads)
	for i := range tasks {
		k := task(fmt.Sprintf("capsule:w%04d", i), uint64(1+rnd.IntN(1500)))
		k.CPUs = rnd.Float64()
		k.Priority = rnd.IntN(3)
		if rnd.IntN(10) == 0 {
			k.Group = fmt.Sprint("g", rnd.IntN(5))
		}
		if rnd.IntN(4) == 0 {
			k.Needs = needs(fmt.Sprint("zone=", rnd.IntN(4))) // zone 3 does not exist
		}
		if rnd.IntN(5) == 0 {
			k.Blocked = map[string]migrate.Finding{rooms[rnd.IntN(hosts)].Name: {Code: "pid-taken", What: "PID taken"}}
		}
		tasks[i] = k
	}
	return tasks, rooms
}

// TestPlaceHolds checks for many fleets what must hold of every plan.
func TestPlaceHolds(t *testing.T) {
	for seed := range uint64(200) {
		hosts := 1 + int(seed%9)
		tasks, rooms := fleet(seed, hosts, int(seed))
		strategy := []Strategy{Spread, Pack}[seed%2]
		choices := Place(tasks, rooms, strategy)
		holds(t, seed, tasks, rooms, choices)
		shuffled := slices.Clone(rooms)
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if again := Place(tasks, shuffled, strategy); !reflect.DeepEqual(again, choices) {
			t.Errorf("seed %d: another plan for the same fleet", seed)
		}
	}
}

func holds(t *testing.T, seed uint64, tasks []Task, rooms []Room, choices []Choice) {
	t.Helper()
	placed := map[string][]Task{}
	for i, c := range choices {
		if c.Workload != tasks[i].Ref || c.Why == "" {
			t.Errorf("seed %d: choice %d is %+v, want one for %s with its reason", seed, i, c, tasks[i].Ref)
		}
		for _, r := range c.Rejected {
			if r.Code == "" || r.What == "" || r.Target == c.Target {
				t.Errorf("seed %d: %s: rejection %+v", seed, c.Workload, r)
			}
		}
		if c.Target == "" && len(c.Rejected) != len(rooms) {
			t.Errorf("seed %d: %s has no place and %d reasons for %d targets", seed, c.Workload, len(c.Rejected), len(rooms))
		}
		placed[c.Target] = append(placed[c.Target], tasks[i])
	}
	for _, r := range rooms {
		within(t, seed, r, placed[r.Name])
	}
}

// within demands that a host can take what was put there.
func within(t *testing.T, seed uint64, r Room, tasks []Task) {
	t.Helper()
	var memory []uint64
	var sum uint64
	var cpus float64
	groups := map[string]bool{}
	for _, k := range tasks {
		memory = append(memory, k.Memory)
		sum += k.Memory
		cpus += k.CPUs
		if k.Group != "" && (groups[k.Group] || r.Groups[k.Group]) {
			t.Errorf("seed %d: two of %s are on %s", seed, k.Group, r.Name)
		}
		groups[k.Group] = true
		if _, blocked := k.Blocked[r.Name]; blocked || !k.Needs.Match(r.Labels) || r.Out != nil {
			t.Errorf("seed %d: %s is on %s, which it cannot be on", seed, k.Ref, r.Name)
		}
	}
	if len(tasks) == 0 {
		return
	}
	if needed(memory) > r.Memory || sum > r.Capacity || r.CPUs >= 0 && cpus > r.CPUs || r.Slots >= 0 && len(tasks) > r.Slots {
		t.Errorf("seed %d: %s has more than it can take: %d MiB (%d with the way), %.1f processors, %d workloads, of %+v",
			seed, r.Name, sum/mib, needed(memory)/mib, cpus, len(tasks), r)
	}
}

// TestPlaceInTime plans 5,000 workloads on 200 hosts. The bound is that of the
// promise, several times over for the race detector and a busy machine.
func TestPlaceInTime(t *testing.T) {
	tasks, rooms := fleet(7, 200, 5000)
	start := time.Now()
	choices := Place(tasks, rooms, Spread)
	took := time.Since(start)
	holds(t, 7, tasks, rooms, choices)
	if took > 20*time.Second {
		t.Errorf("planning took %v, want less than 2 s without the race detector", took)
	}
	t.Logf("5,000 workloads on 200 hosts: %v", took)
}

func BenchmarkPlace(b *testing.B) {
	tasks, rooms := fleet(7, 200, 5000)
	for b.Loop() {
		Place(tasks, rooms, Spread)
	}
}
