package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/workload/proc"
)

// Found is a workload that runs on the host.
type Found struct {
	Ref  Ref
	Name string // in the host's registry
	Root Live
	// Look reads its facts, and on request what keeps it from moving; nil is
	// [Describe] and [Inspect].
	Look func(ctx context.Context, blockers bool) (migrate.Workload, []migrate.Finding, error)
}

// Discover returns the workloads of the host that are known by a record or by
// labels and run, by kind and name. Of containers their runtimes know: they are
// not among them. What cannot be read is in the error; the list is good also
// then.
func Discover(stateDir string) ([]Found, error) {
	records, err1 := List(stateDir)
	labelled, err2 := ListLabelled(stateDir)
	var list []Found
	seen := map[string]bool{}
	for _, r := range records {
		if r.LiveRoot() != 0 && !r.Kind.Container() {
			seen[r.Name] = true
			list = append(list, Found{Ref: r.Ref(), Name: r.Name, Root: r.Root})
		}
	}
	for _, l := range labelled {
		if l.Kind == Process && !seen[l.Name] {
			list = append(list, Found{Ref: Record{Kind: l.Kind, Name: l.Name}.Ref(), Name: l.Name, Root: l.Root})
		}
	}
	SortFound(list)
	return list, errors.Join(err1, err2)
}

// SortFound sorts workloads by kind and name.
func SortFound(list []Found) {
	slices.SortFunc(list, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Ref.Kind, b.Ref.Kind), cmp.Compare(a.Name, b.Name))
	})
}

// Listed looks at a workload that runs. Blockers are looked for on request, as
// that waits for tasks that seem stuck.
func (f Found) Listed(ctx context.Context, stateDir string, blockers bool) (migrate.Listed, error) {
	l := migrate.Listed{Ref: f.Ref.String(), Kind: string(f.Ref.Kind), Name: f.Name, PID: f.Root.PID, Start: f.Root.Start}
	look := f.Look
	if look == nil {
		look = f.lookAtProcess
	}
	w, findings, err := look(ctx, blockers)
	if err != nil {
		return l, fmt.Errorf("%s: %w", l.Ref, err)
	}
	l.Blockers, l.Command = findings, w.Command
	l.Memory, l.CPU = w.MemoryBytes, busy(w.Tasks)
	l.Labels, err = Labels(stateDir, f.Name, f.Root)
	return l, err
}

func (f Found) lookAtProcess(ctx context.Context, blockers bool) (migrate.Workload, []migrate.Finding, error) {
	if blockers {
		return Inspect(ctx, f.Root.PID)
	}
	w, err := Describe(f.Root.PID)
	return w, nil, err
}

// busy returns how many processors tasks have kept busy since they began.
func busy(tasks []migrate.Task) (sum float64) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	for _, t := range tasks {
		p, err := proc.Read(t.PID)
		if err != nil {
			continue // it has ended
		}
		used, err := proc.CPUTime(t.PID)
		if age := p.Age(time.Duration(now.Nano())); err == nil && age > time.Second {
			sum += float64(used) / float64(age)
		}
	}
	return sum
}
