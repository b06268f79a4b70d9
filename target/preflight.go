package target

import (
	"context"
	"fmt"
	"slices"
	"time"

	"migrate"
	"migrate/clock"
	"migrate/internal/cordon"
	"migrate/internal/hostinfo"
	"migrate/rootfs"
	"migrate/transport"
	"migrate/workload"
)

// check answers an offer with everything that is in the way, at once.
func (a *Agent) check(ctx context.Context, o transport.Offer) (migrate.Check, error) {
	here, err := hostinfo.Describe(ctx, a.tool, a.criuErr, a.cfg.Store)
	if err != nil {
		return migrate.Check{}, err
	}
	c := migrate.Check{Source: o.Host, Target: here, Blockers: []migrate.Finding{}, Warnings: []migrate.Finding{}}
	blockers, warnings := compareHosts(o, here)
	c.Blockers, c.Warnings = append(c.Blockers, blockers...), append(c.Warnings, warnings...)
	cordoned, err := cordon.Load(a.cfg.StateDir)
	if err != nil {
		return c, err
	}
	if cordoned != nil {
		c.Blockers = append(c.Blockers, cordon.Finding(here.Name, *cordoned))
	}
	if f := a.criuFinding(ctx, o, here.Name); f != nil {
		c.Blockers = append(c.Blockers, *f)
	}
	w := o.Workload
	if len(o.Init) > 0 { // it comes with the workload
		w.Files = slices.DeleteFunc(slices.Clone(w.Files), func(f migrate.File) bool { return f.Path == w.Init })
	}
	blockers, warnings = containerFindings(ctx, joined(o), here)
	c.Blockers, c.Warnings = append(c.Blockers, blockers...), append(c.Warnings, warnings...)
	net, err := networkFindings(o, here.Name)
	if err != nil {
		return c, err
	}
	c.Blockers, c.Warnings = append(c.Blockers, net.Blockers...), append(c.Warnings, net.Warnings...)
	if w.Container != nil && w.Container.RootFS.Kind == migrate.RootOverlay {
		w.Files = nil // where they are is not mounted yet
	}
	w.Files = slices.DeleteFunc(slices.Clone(w.Files), func(f migrate.File) bool { return comes(o, f.Path) })
	files, err := a.treeFindings(ctx, o)
	if err != nil {
		return c, err
	}
	c.Blockers = append(c.Blockers, files...)
	if f := rootMounted(o); f != nil {
		c.Blockers = append(c.Blockers, *f)
	}
	c.Blockers = append(c.Blockers, workload.TargetFindings(w, workload.TargetChecks{
		NameTaken:    func(name string) bool { return workload.NameTaken(a.cfg.StateDir, name) },
		CompareFiles: rootfs.Compare,
	})...)
	if f := a.room(o.Workload, o.Drain, here); f != nil {
		c.Blockers = append(c.Blockers, *f)
	}
	return c, nil
}

// criuFinding tells what keeps this host's CRIU from restoring the workload. A
// source without a CRIU has told its own finding, and could not describe its CPU.
func (a *Agent) criuFinding(ctx context.Context, o transport.Offer, host string) *migrate.Finding {
	if a.criuErr != nil {
		f, _ := migrate.FailureOf(a.criuErr)
		return &migrate.Finding{
			Code: "criu", What: host + ": " + a.criuErr.Error(),
			Advice: f.Advice + ", and start the agent on " + host + " again",
		}
	}
	if o.Host.CRIU == "" {
		return nil
	}
	if err := a.tool.CheckCPU(ctx, o.CPUInfo); err != nil {
		f, _ := migrate.FailureOf(err)
		return &migrate.Finding{Code: "cpu", What: "this workload may use CPU features that " + host + " lacks: " + f.Cause, Advice: f.Advice}
	}
	return nil
}

// compareHosts is the part of preflight that needs nothing but both hosts'
// facts.
func compareHosts(o transport.Offer, dst migrate.Host) (blockers, warnings []migrate.Finding) {
	src := o.Host
	if src.Arch != dst.Arch {
		blockers = append(blockers, migrate.Finding{
			Code: "arch", What: fmt.Sprintf("%s is %s, %s is %s", src.Name, src.Arch, dst.Name, dst.Arch),
			Advice: "move to a host of the same architecture",
		})
	}
	if dst.CRIUNumber != 0 && dst.CRIUNumber < src.CRIUNumber {
		blockers = append(blockers, migrate.Finding{
			Code: "criu-older", What: fmt.Sprintf("CRIU on %s is %s, older than %s on %s", dst.Name, dst.CRIU, src.CRIU, src.Name),
			Advice: "upgrade CRIU on " + dst.Name,
		})
	}
	if o.Options.Restore == migrate.RestoreLazy && !dst.LazyPages {
		blockers = append(blockers, migrate.Finding{
			Code: "no-lazy-restore", What: fmt.Sprintf("%s cannot restore lazily: its kernel or CRIU lacks what lazy pages need (userfaultfd)", dst.Name),
			Advice: "leave --restore at auto, or give eager",
		})
	}
	if !dst.TimeNamespaces {
		tree := migrate.ClockReading{Monotonic: time.Duration(o.Workload.MonoOffset), Boottime: time.Duration(o.Workload.BootOffset)}
		b, w := clock.BackwardOnHost(o.Workload.OwnTime, tree, difference(o.Monotonic, o.Boottime))
		blockers, warnings = append(blockers, b...), append(warnings, w...)
	}
	if kernelOlder(dst.Kernel, src.Kernel) {
		warnings = append(warnings, migrate.Finding{
			Code: "kernel-older", What: fmt.Sprintf("the kernel of %s (%s) is older than that of %s (%s)", dst.Name, dst.Kernel, src.Name, src.Kernel),
			Advice: "a program that uses newer system calls may fail there",
		})
	}
	return blockers, warnings
}

// kernelOlder compares the first two numbers of kernel releases.
func kernelOlder(a, b string) bool {
	var a1, a2, b1, b2 int
	fmt.Sscanf(a, "%d.%d", &a1, &a2)
	fmt.Sscanf(b, "%d.%d", &b1, &b2)
	return a1 < b1 || a1 == b1 && a2 < b2
}
