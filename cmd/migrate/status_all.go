package main

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"migrate"
	"migrate/drain"
	"migrate/source"
	"migrate/transport"
)

// everywhere is which hosts a status is asked of.
type everywhere struct {
	on        bool
	hosts     []string
	inventory string
}

// list returns the hosts besides this one.
func (e everywhere) list() ([]drain.Host, error) {
	list := drain.Hosts(e.hosts)
	for _, h := range list {
		if err := checkTarget(h.Address); err != nil {
			return nil, err
		}
	}
	if e.inventory != "" {
		more, err := readInventory(e.inventory)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	if len(list) == 0 {
		return nil, usagef("--all: want the hosts, by --host HOST or --inventory FILE")
	}
	return list, nil
}

// hostRow is a migration that a host tells of.
type hostRow struct {
	Type       string            `json:"type"` // always "host-migration"
	Host       string            `json:"host"` // that tells of it
	ID         migrate.ID        `json:"id"`
	Workload   string            `json:"workload"`
	SourceHost string            `json:"source"`
	TargetHost string            `json:"target"`
	Status     migrate.Status    `json:"status"`
	Owner      migrate.Owner     `json:"owner"`
	Started    time.Time         `json:"started"`
	Progress   *migrate.Progress `json:"progress,omitempty"`
}

func (r hostRow) cells() []string {
	progress := string(r.Status)
	if r.Progress != nil && r.Progress.Total > 0 {
		progress = progressLine(*r.Progress)
	}
	return []string{r.Host, string(r.ID), r.Workload, r.SourceHost, r.TargetHost, progress}
}

// runStatusAll lists the migrations under way of this host and others.
func runStatusAll(ctx context.Context, a *app, e everywhere, args []string) error {
	if len(args) > 0 {
		return usagef("--all: want no ID")
	}
	hosts, err := e.list()
	if err != nil {
		return err
	}
	id, err := a.identity()
	if err != nil {
		return &blockedError{err}
	}
	p := a.printer()
	var mu sync.Mutex
	var work sync.WaitGroup
	found := a.statusHere(ctx, p)
	silent := 0
	for _, h := range hosts {
		work.Go(func() {
			remote := a.remoteHost(id, h.Address, migrate.Options{}.WithDefaults())
			reply, err := ask[transport.StatusReply](ctx, remote, transport.Status{})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent++
				p.note("%s does not tell: %s", h.Name, whatFailed(failed(err)))
				return
			}
			found = append(found, underWay(h.Name, reply)...)
		})
	}
	work.Wait()
	slices.SortStableFunc(found, func(x, y hostRow) int {
		return cmp.Or(x.Started.Compare(y.Started), cmp.Compare(x.ID, y.ID), cmp.Compare(x.Host, y.Host))
	})
	return listStatus(p, found, silent)
}

func listStatus(p printer, found []hostRow, silent int) error {
	rows, code := []row{}, codeOK
	if silent > 0 {
		code = codeFailed
	}
	for _, r := range found {
		rows = append(rows, r)
		if r.Status == migrate.StatusInDoubt {
			code = codeInDoubt
		}
	}
	p.list([]string{"HOST", "ID", "WORKLOAD", "FROM", "TO", "PROGRESS"}, rows)
	return end(code)
}

// underWay returns what of a host's answer is not over.
func underWay(host string, reply transport.StatusReply) (rows []hostRow) {
	for _, r := range reply.Reports {
		if r.Status != migrate.StatusActive && r.Status != migrate.StatusInDoubt {
			continue
		}
		row := hostRow{
			Type: "host-migration", Host: host, ID: r.ID, Workload: r.Workload, SourceHost: r.SourceHost, TargetHost: r.TargetHost,
			Status: r.Status, Owner: r.Owner, Started: r.Started,
		}
		if g, ok := reply.Progress[r.ID]; ok {
			row.Progress = &g
		}
		rows = append(rows, row)
	}
	return rows
}

// statusHere is what this host would answer.
func (a *app) statusHere(_ context.Context, p printer) []hostRow {
	j, list, err := a.records(p, "")
	if err != nil {
		p.note("warning: %v", err)
		return nil
	}
	reply := transport.StatusReply{Progress: map[migrate.ID]migrate.Progress{}}
	for _, r := range list {
		reply.Reports = append(reply.Reports, reportOf(r, a.live(j, r)))
		if g, err := source.Ask(a.runDir, r.ID, "status"); err == nil && r.Side == migrate.Source {
			reply.Progress[r.ID] = g
		}
	}
	return underWay(cmp.Or(hostname(), "this host"), reply)
}
