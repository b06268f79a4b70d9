package drain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"migrate"
	"migrate/internal/cordon"
)

// roomOf returns what a target can take, by its limits and what it says of
// itself.
func (rec *Record) roomOf(h Host, st migrate.HostState, err error) Room {
	r := Room{Name: h.Name, Labels: h.Labels, Capacity: NoLimit, CPUs: -1, Slots: -1, Groups: map[string]bool{}}
	switch {
	case err != nil:
		f, _ := migrate.FailureOf(err)
		r.Out = &migrate.Finding{Code: "unreachable", What: oneLine(f), Advice: f.Advice}
	case rec.Kind == KindDrain && st.Host.Name == rec.Host:
		r.Out = &migrate.Finding{Code: "same-host", What: h.Name + " is the host that is drained"}
	case rec.Kind == KindDrain && st.Cordon != nil:
		f := cordon.Finding(st.Host.Name, *st.Cordon)
		r.Out = &f
	case !st.Host.RestoreSupported:
		r.Out = &migrate.Finding{Code: "criu", What: h.Name + " has no usable CRIU"}
	}
	r.Memory = left(st.Host.MemoryAvailable, st.Promised)
	var used Limits
	for _, w := range st.Workloads {
		used.Memory += w.Memory
		used.CPUs += w.CPU
		used.Workloads++
		if g := w.Labels[LabelGroup]; g != "" {
			r.Groups[g] = true
		}
	}
	if h.Limits.Memory > 0 {
		r.Capacity = left(h.Limits.Memory, used.Memory)
	}
	if h.Limits.CPUs > 0 {
		r.CPUs = max(0, h.Limits.CPUs-used.CPUs)
	}
	if h.Limits.Workloads > 0 {
		r.Slots = max(0, h.Limits.Workloads-used.Workloads)
	}
	return r
}

// oneLine joins what failed and why.
func oneLine(f migrate.Failure) string {
	if f.Cause == "" || f.Cause == f.What {
		return f.What
	}
	return f.What + ": " + f.Cause
}

// itemOf returns a workload of a host as one of a drain.
func (o Options) itemOf(host string, w migrate.Listed) Item {
	it := Item{
		Ref: w.Ref, Name: w.Name, Kind: w.Kind, Source: host, Start: w.Start, Memory: w.Memory, CPU: w.CPU, Labels: w.Labels,
		Action: o.action(w), State: StatePending, Rejected: []Rejection{}, Attempts: []Attempt{},
	}
	if n, err := strconv.ParseFloat(w.Labels[LabelCPUs], 64); err == nil && n >= 0 {
		it.CPU = n
	}
	move, err := o.moveOf(w.Labels)
	if err != nil {
		it.Failure = &migrate.Failure{What: "its label " + err.Error(), Advice: "change it with \"migrate label " + w.Ref + "\""}
	} else if b := blocker(w, move.TCP); b != nil {
		it.Failure = &migrate.Failure{What: b.What, Advice: b.Advice}
	}
	return it
}

// blocker returns the first thing that keeps a workload from moving to any
// host; nil if there is none.
func blocker(w migrate.Listed, tcp migrate.TCPPolicy) *migrate.Finding {
	for i, b := range w.Blockers {
		if b.Code != "tcp-connected" || tcp == migrate.TCPRefuse {
			return &w.Blockers[i]
		}
	}
	return nil
}

// priority returns how important a workload is; 0 without a label that says so.
func (it *Item) priority() int {
	n, _ := strconv.Atoi(it.Labels[LabelPriority])
	return n
}

// task returns a workload as one that needs a place. One that comes back was
// there before: what its labels ask of a host was no obstacle then.
func (rec *Record) task(it *Item) Task {
	t := Task{Ref: it.Ref, Memory: it.Memory, CPUs: it.CPU, Priority: it.priority()}
	if rec.Kind == KindUndrain {
		return t
	}
	t.Group = it.Labels[LabelGroup]
	for k, v := range it.Labels {
		if key, ok := strings.CutPrefix(k, LabelTarget); ok {
			t.Needs = append(t.Needs, term{key: key, value: v})
		}
	}
	slices.SortFunc(t.Needs, func(a, b term) int { return cmp.Compare(a.key, b.key) })
	return t
}

// checker runs the preflight of a workload with a target.
type checker func(ctx context.Context, task int, target string) ([]migrate.Finding, error)

// checksAtOnce bounds preflights beside each other: each starts programs on
// both hosts.
const checksAtOnce = 4

// settle places tasks, runs the preflight of each with the host that was chosen
// for it, and places again without what cannot be, until nothing is in the way
// of any choice. A workload that finds no place has been checked with every host
// that had room for it.
func settle(ctx context.Context, tasks []Task, rooms []Room, strategy Strategy, check checker) ([]Choice, error) {
	checked := map[string]bool{}
	for {
		choices := Place(tasks, rooms, strategy)
		var mu sync.Mutex
		again := false
		group, sub := errgroup.WithContext(ctx)
		group.SetLimit(checksAtOnce)
		for i, c := range choices {
			key := c.Target + " " + c.Workload
			if c.Target == "" || checked[key] {
				continue
			}
			checked[key] = true
			group.Go(func() error {
				f, err := verdict(sub, i, c.Target, check)
				if f == nil || err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				again = true
				tasks[i].block(c.Target, *f)
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		if !again {
			return choices, nil
		}
	}
}

// verdict returns what is in the way of a choice, nil if nothing is. A check
// that fails is in the way too; only the end of ctx is an error.
func verdict(ctx context.Context, task int, target string, check checker) (*migrate.Finding, error) {
	blockers, err := check(ctx, task, target)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		f, _ := migrate.FailureOf(err)
		return &migrate.Finding{Code: "check-failed", What: oneLine(f), Advice: f.Advice}, nil
	case len(blockers) > 0:
		return &blockers[0], nil
	}
	return nil, nil
}

func (t *Task) block(target string, f migrate.Finding) {
	if t.Blocked == nil {
		t.Blocked = map[string]migrate.Finding{}
	}
	t.Blocked[target] = f
}

// unplaced is why a workload has no place, for people.
func unplaced(c Choice) *migrate.Failure {
	f := &migrate.Failure{What: c.Why}
	var causes []string
	for _, r := range c.Rejected {
		causes = append(causes, fmt.Sprintf("%s: %s", r.Target, r.What))
	}
	f.Cause = strings.Join(causes, "; ")
	f.Advice = "make room, or choose what to do with it by --action"
	return f
}
