package source

import (
	"context"
	"time"

	"migrate"
	"migrate/predump"
)

// What a freeze costs on this host besides the pages, before it was measured.
const (
	fixedCost   = 35 * time.Millisecond // freeze, CRIU's collecting of the tree, images, vote and commit
	listPerPage = 120 * time.Nanosecond // CRIU's walk over a page that it only lists
	sendPerPage = 900 * time.Nanosecond // over a page that it sends to us
)

// decideNext has the policy look at the rounds so far, and does what it says
// about the next one.
func (v *move) decideNext(ctx context.Context, r migrate.Round) (done bool, err error) {
	s := v.policyState(r)
	if expected, ok := predump.Predict(s); ok {
		r.Expected = migrate.Millis(expected)
		v.report.Expected = r.Expected
	}
	v.addRound(r)
	decision, percent, why := predump.Decide(s, v.settings.limits())
	if context.Cause(v.hurry) != nil {
		decision, why = predump.Freeze, "time for pre-copy is up"
	}
	v.log.Info("policy", "decision", decision, "why", why)
	switch decision {
	case predump.Freeze:
		return !v.ahead(), nil
	case predump.Cancel:
		return true, &notConverging{why}
	case predump.Throttle:
		v.slowDown(ctx, percent)
	}
	return false, nil
}

// notConverging is the policy's word that the limits cannot be kept.
type notConverging struct{ why string }

func (n *notConverging) Error() string { return "pre-copy does not converge: " + n.why }

func (n *notConverging) Failure() migrate.Failure {
	return migrate.Failure{
		What: "pre-copy does not converge", Cause: n.why,
		Advice: "slow the workload with --auto-converge, allow more with --downtime-limit or --bandwidth, or take what it takes with --timeout-action suspend",
	}
}

func (v *move) policyState(r migrate.Round) predump.State {
	p := v.prepared
	s := predump.State{
		Rounds: append(v.report.Rounds[:len(v.report.Rounds):len(v.report.Rounds)], r), Pages: v.facts.MemoryBytes / pageSize,
		Elapsed: time.Since(v.report.Started), Throttle: v.slower.percent, Bandwidth: v.settings.now().Bandwidth,
		Costs: predump.Costs{
			Fixed: fixedCost, PerPage: v.perPage(),
			Restore: time.Duration(p.RestoreFixedNS), RestorePerMiB: time.Duration(p.RestorePerMiBNS),
		},
	}
	return s
}

func (v *move) perPage() time.Duration {
	if v.listing || v.parent != "" {
		return listPerPage
	}
	return sendPerPage
}
