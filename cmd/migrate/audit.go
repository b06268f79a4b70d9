package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/internal/audit"
)

const auditLong = `Lists who asked this host for what, the newest last: hosts that sent workloads,
operators on other hosts, and commands on this one. What was granted was begun;
"migrate history" and "migrate report" say how it ended.`

func newAuditCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "List who asked this host for what",
		Long:    auditLong,
		Example: "  migrate audit --json | jq 'select(.granted | not)'",
		Args:    exactly(""),
		RunE:    func(*cobra.Command, []string) error { return runAudit(a) },
	}
	a.bindJSON(cmd.Flags())
	return cmd
}

func runAudit(a *app) error {
	list, damaged, err := audit.Open(a.stateDir).List()
	if err != nil {
		return err
	}
	p := a.printer()
	if damaged > 0 {
		p.note("warning: %s of the record cannot be read", count(damaged, "line"))
	}
	rows := []row{}
	for _, e := range list {
		rows = append(rows, auditRow{"request", e})
	}
	p.list([]string{"TIME", "WHO", "WHAT", "WORKLOAD", "ID", "TO", "GRANTED"}, rows)
	return nil
}

// auditRow is one request.
type auditRow struct {
	Type string `json:"type"` // always "request"
	audit.Entry
}

func (r auditRow) cells() []string {
	granted := "yes"
	if !r.Granted {
		granted = "no: " + r.Why
	}
	return []string{r.Time.Local().Format(time.DateTime), r.Who, r.What, r.Workload, string(r.ID), r.To, granted}
}

// audited notes what a command on this host is about to do, or why it does not.
// A host whose record cannot be written still does its work, and says so at the
// end: an error of the command mostly has the same cause.
func (a *app) audited(what, workload string, id migrate.ID, to string, refused error) {
	e := audit.Entry{Who: fmt.Sprintf("local %d", os.Getuid()), What: what, Workload: workload, ID: id, To: to, Granted: refused == nil}
	if refused != nil {
		e.Why = failureOf(refused).What
	}
	if err := audit.Open(a.stateDir).Add(e); err != nil {
		why := err.Error()
		a.unaudited.Store(&why)
	}
}

func (a *app) tellUnaudited() {
	if why := a.unaudited.Load(); why != nil {
		a.printer().note("warning: this request is not in the audit record: %s", *why)
	}
}
