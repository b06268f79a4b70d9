package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/internal/hostinfo"
	"migrate/journal"
	"migrate/predump"
	"migrate/supervisor"
	"migrate/transport"
	"migrate/workload"
)

// preflight compares both hosts and stops at any blocker.
func (v *move) preflight(ctx context.Context) error {
	v.enter(migrate.Preflight)
	check, err := v.compare(ctx, false)
	if err != nil {
		return err
	}
	for _, w := range check.Warnings {
		v.events.send(migrate.Event{Type: "warning", Warning: &w})
	}
	if len(check.Blockers) > 0 {
		return &blocked{check}
	}
	if err := v.openJournal(); err != nil {
		return err
	}
	return v.listen()
}

// compare describes the workload and this host to the target, and joins both
// sides' findings.
func (v *move) compare(ctx context.Context, only bool) (migrate.Check, error) {
	findings, err := v.inspect(ctx)
	if gone, ok := errors.AsType[*notFound](err); ok { // nothing to ask the target about
		v.report.Blockers = append(v.report.Blockers, migrate.Finding{Code: "not-found", What: gone.what, Advice: gone.advice})
		return migrate.Check{Target: migrate.Host{Name: v.target}, Blockers: v.report.Blockers, Warnings: v.report.Warnings}, nil
	}
	if err != nil {
		return migrate.Check{}, err
	}
	net, err := v.inspectNetwork(ctx)
	if err != nil {
		return migrate.Check{}, err
	}
	missing, left, err := v.findFiles(ctx)
	if err != nil {
		return migrate.Check{}, err
	}
	offer, unusable, err := v.offer(ctx, only)
	if err != nil {
		return migrate.Check{}, err
	}
	if err := v.session.Send(ctx, offer); err != nil {
		return migrate.Check{}, err
	}
	answer, err := expect[transport.Answer](ctx, v.inbox)
	if err != nil {
		return migrate.Check{}, err
	}
	check := answer.Check
	check.Source = offer.Host
	check.Files = v.fileReport()
	check.Blockers = slices.Concat(v.local(findings), net.Blockers, unusable, missing, check.Blockers)
	check.Warnings = slices.Concat(net.Warnings, check.Warnings, left)
	v.peer = check.Target
	v.report.SourceHost, v.report.TargetHost = check.Source.Name, check.Target.Name
	v.report.Blockers = append(v.report.Blockers, check.Blockers...)
	v.report.Warnings = append(v.report.Warnings, check.Warnings...)
	v.report.MemoryBytes = v.facts.MemoryBytes
	v.report.Tracker, v.report.TrackerWhy = predump.Choose(v.opts.Tracker, offer.Host.SoftDirty, predump.Probe().UffdWP)
	return check, nil
}

// inspect finds the tree and reads its facts.
func (v *move) inspect(ctx context.Context) ([]migrate.Finding, error) {
	root, record, err := v.resolve(v.ref)
	var findings []migrate.Finding
	if v.ref.Kind.Container() {
		root, findings, err = v.findContainer(ctx)
	}
	if err != nil {
		return nil, err
	}
	v.root = root
	facts, more, err := v.look(ctx)
	if err != nil {
		return nil, err
	}
	findings = append(findings, more...)
	facts.Kind, facts.Name, facts.ID = string(v.ref.Kind), v.ref.Name(), v.ref.ID
	if record != nil {
		facts.Kind, facts.Name = string(record.Kind), record.Name
		facts.Command, facts.Dir, facts.Init, facts.LogLimit = record.Command, record.Dir, record.Init, record.LogLimit
		v.super, err = supervisor.Connect(v.cfg.RunDir, record.Name)
		if err != nil {
			v.log.Warn("the workload's supervisor does not answer", "cause", err)
		}
	}
	if facts.Labels, err = v.labels(facts.Name); err != nil {
		return nil, err
	}
	v.facts = facts
	return findings, nil
}

// labels returns those of the tree, which the target is to keep.
func (v *move) labels(name string) (map[string]string, error) {
	root, err := workload.Identify(v.root)
	if err != nil {
		return nil, err
	}
	return workload.Labels(v.cfg.StateDir, name, root)
}

// offer gathers what the target's preflight needs. What is wrong with this
// host's CRIU is a finding, so that everything in the way is told at once.
func (v *move) offer(ctx context.Context, only bool) (o transport.Offer, unusable []migrate.Finding, err error) {
	o = transport.Offer{ID: v.id, Workload: v.facts, Options: v.opts, CheckOnly: only, ReplyTo: v.cfg.ReplyTo, Drain: v.drain,
		Monotonic: bounds(v.diff.Monotonic), Boottime: bounds(v.diff.Boottime)}
	var criuErr error
	v.tool, criuErr = criu.FindKnown(ctx, v.cfg.CRIU, v.cfg.RunDir)
	if o.Host, err = hostinfo.Describe(ctx, v.tool, criuErr, ""); err != nil {
		return o, nil, err
	}
	if criuErr != nil {
		unusable = []migrate.Finding{{Code: "criu", What: o.Host.Name + ": " + criuErr.Error(), Advice: Failure(criuErr).Advice}}
	} else if o.CPUInfo, err = v.tool.DumpCPU(ctx); err != nil {
		return o, nil, err
	}
	if v.facts.Init != "" {
		if o.Init, err = os.ReadFile(v.facts.Init); err != nil {
			return o, nil, fmt.Errorf("the workload's init: %w", err)
		}
	}
	if v.container != nil {
		o.Config = v.container.Config
	}
	o.Trees = v.offeredTrees()
	o.Network, err = v.net.encoded()
	return o, unusable, err
}

// local drops what the options allow from this host's own findings, and adds a
// move of the same tree that is not over.
func (v *move) local(findings []migrate.Finding) []migrate.Finding {
	findings = slices.DeleteFunc(findings, func(f migrate.Finding) bool {
		return f.Code == workload.CodeTCP && v.opts.TCP != migrate.TCPRefuse
	})
	if v.opts.TCP == migrate.TCPEstablished && !v.facts.OwnNet {
		findings = append(findings, migrate.Finding{
			Code:   CodeTCPEstablished,
			What:   "--tcp established: the workload has the network of its host, whose address and connections stay there",
			Advice: "use --tcp close, or run it in a container or capsule with a network namespace of its own",
		})
	}
	if b := v.rival(); b != nil {
		f := b.Failure()
		findings = append(findings, migrate.Finding{Code: "busy", What: f.What, Advice: f.Advice})
	}
	return findings
}

// rival returns another move of the same tree that is not over, or nil.
func (v *move) rival() *busy {
	records, err := v.journal.List()
	if err != nil {
		v.log.Warn("journal", "cause", err)
	}
	root, err := workload.Identify(v.root)
	for _, r := range records {
		same := r.RootPID == v.root && (r.RootStart == root.Start || err != nil)
		if r.Side == migrate.Source && same && r.ID != v.id && !r.Phase.Over() {
			return &busy{r}
		}
	}
	return nil
}

// openJournal begins the record, and then looks again for another move, which
// may have begun since: of two, at most one goes on.
func (v *move) openJournal() error {
	root, err := workload.Identify(v.root)
	if err != nil {
		return err
	}
	rec := journal.Record{
		ID: v.id, Side: migrate.Source, Phase: migrate.Connect,
		Name: v.facts.Name, Workload: v.ref.String(), Peer: Address(v.target), PeerName: v.session.Peer(),
		ReplyTo: v.cfg.ReplyTo, RootPID: v.root, RootStart: root.Start,
		Started: v.report.Started, Updated: time.Now(), Status: migrate.StatusActive, Options: v.opts,
	}
	v.journalContainer(&rec)
	if v.entry, err = v.journal.Begin(rec); err != nil {
		return err
	}
	if b := v.rival(); b != nil {
		return b
	}
	return v.entry.Step(migrate.Preflight, nil)
}

// busy is an unfinished earlier move of the same tree.
type busy struct{ record journal.Record }

func (b *busy) Error() string {
	return fmt.Sprintf("migration %s of %s is not over (%s)", b.record.ID, b.record.Workload, b.record.Phase)
}

func (b *busy) Failure() migrate.Failure {
	return migrate.Failure{
		What:   b.Error(),
		Advice: fmt.Sprintf("wait for it, stop it with \"migrate cancel %s\", or clear up behind a dead one with \"migrate recover %s\"", b.record.ID, b.record.ID),
	}
}

// record writes the end of the move into its journal record.
func (v *move) record(err error) {
	if v.entry == nil {
		return
	}
	change := func(r *journal.Record) {
		r.Status, r.Report, r.Reason = v.report.Status, v.report, v.report.Error
	}
	var jerr error
	if v.report.Status == migrate.StatusCompleted && err == nil {
		jerr = v.entry.Step(migrate.Done, change)
	} else {
		jerr = v.entry.Update(change)
	}
	if jerr == nil || errors.Is(jerr, os.ErrClosed) {
		return
	}
	v.log.Info("journal", "cause", jerr)
	if err == nil { // else that is told, and is mostly the same
		w := migrate.Finding{Code: "journal", What: jerr.Error(), Advice: "run \"migrate recover\""}
		v.report.Warnings = append(v.report.Warnings, w)
		v.events.send(migrate.Event{Type: "warning", Warning: &w})
	}
}
