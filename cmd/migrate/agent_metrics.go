package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"migrate"
	"migrate/drain"
	"migrate/internal/cordon"
	"migrate/internal/metrics"
	"migrate/journal"
	"migrate/source"
	"migrate/workload"
)

// serveMetrics serves what Prometheus asks for on address, until the function
// that it returns is called; "" serves nothing.
func serveMetrics(ctx context.Context, address string, set *metrics.Set, log *slog.Logger) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		log.Warn("metrics can be read by anybody who reaches this address", "address", l.Addr())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", set.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	go func() { _ = server.Serve(l) }() // ends with Close
	return func() { _ = server.Close() }, nil
}

// follow counts the migrations and drains that have ended since it was called
// the last time, by whomever: a command's moves are in the journal too.
func (s *sourceSide) follow(records []journal.Record) {
	first := s.over == nil
	if first {
		s.over = map[string]bool{}
	}
	for _, r := range records {
		key := string(r.ID) + string(r.Side)
		if !r.Phase.Over() || s.over[key] {
			continue
		}
		if s.over[key] = true; !first {
			s.metrics.Migration(r.Side, reportOf(r, false))
		}
	}
	s.followDrains(first)
}

func (s *sourceSide) followDrains(first bool) {
	store, err := s.app.drains()
	if err != nil {
		return // that is logged where records are pruned
	}
	list, _ := store.List() // what there is of it
	for _, r := range list {
		key := "drain " + string(r.ID) + r.Ended.String()
		if r.Ended.IsZero() || s.over[key] {
			continue
		}
		if s.over[key] = true; !first {
			s.metrics.Drain(r.Kind, string(r.Status), statesOf(r))
		}
	}
}

func statesOf(r drain.Record) map[string]int {
	states := map[string]int{}
	for _, it := range r.Items {
		states[string(it.State)]++
	}
	return states
}

// containersTime is for how long a scrape waits for what container runtimes say.
const containersTime = 5 * time.Second

// now tells what goes on on this host now.
func (s *sourceSide) now() metrics.Live {
	l := metrics.Live{Workloads: map[string]int{}}
	for _, k := range workload.Kinds {
		l.Workloads[string(k)] = 0
	}
	records, _ := s.journal.List() // damaged ones are logged where recovery looks
	for _, r := range records {
		if r.Phase.Over() {
			continue
		}
		a := metrics.Active{Side: r.Side, Phase: r.Phase, Workload: r.Workload}
		alive := s.app.live(s.journal, r)
		a.InDoubt = statusOf(r, alive) == migrate.StatusInDoubt
		if g, err := source.Ask(s.app.runDir, r.ID, "status"); err == nil && r.Side == migrate.Source {
			a.Progress, a.Phase = &g, g.Phase
		}
		l.Active = append(l.Active, a)
	}
	ctx, cancel := context.WithTimeout(context.Background(), containersTime)
	defer cancel()
	found, _ := s.app.discover(ctx)
	for _, f := range found {
		l.Workloads[string(f.Ref.Kind)]++
	}
	c, err := cordon.Load(s.app.stateDir)
	l.Cordoned = c != nil || err != nil
	l.Drains = s.drainsLive()
	if s.agent != nil {
		l.Promised, l.StoreFree = s.agent.Room()
	}
	return l
}

func (s *sourceSide) drainsLive() (n int) {
	store, err := s.app.drains()
	if err != nil {
		return 0
	}
	list, _ := store.List()
	for _, r := range list {
		if r.Ended.IsZero() && store.Live(r.ID) {
			n++
		}
	}
	return n
}
