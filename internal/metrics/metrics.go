// Package metrics tells Prometheus about the migrations of a host: what has
// ended, as it ends, and what goes on, when it is asked.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"migrate"
)

// Live is what goes on on the host now.
type Live struct {
	Active    []Active
	Workloads map[string]int // that run, by kind
	Cordoned  bool
	Promised  uint64 // bytes of memory, to moves under way and to drains
	StoreFree uint64 // bytes
	Drains    int    // that commands on this host carry out
}

// Active is one side of a migration that is not over.
type Active struct {
	Side     migrate.Side
	Phase    migrate.Phase
	Workload string
	InDoubt  bool
	Progress *migrate.Progress // of a source that lives
}

// Set is all metrics of one host. Its methods may be called concurrently.
type Set struct {
	registry *prometheus.Registry

	migrations  *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	downtime    prometheus.Histogram
	frozen      prometheus.Histogram
	transferred prometheus.Counter
	memory      prometheus.Counter
	rounds      prometheus.Counter
	pages       *prometheus.CounterVec
	redials     prometheus.Counter
	drains      *prometheus.CounterVec
	drained     *prometheus.CounterVec
	requests    *prometheus.CounterVec
}

// downtimes are the bounds of what people care about: a frame, a heartbeat, a
// time-out. In seconds.
var downtimes = []float64{.005, .01, .02, .05, .1, .2, .3, .5, 1, 2, 5, 10, 30, 60}

// durations are those of whole moves, in seconds.
var durations = []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800}

// New makes the metrics. live is called whenever they are asked for.
func New(version string, live func() Live) *Set {
	s := &Set{registry: prometheus.NewRegistry()}
	s.migrations = s.counters("migrate_migrations_total", "Migrations that have ended, by the side that this host was and how.", "side", "result")
	s.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "migrate_migration_duration_seconds", Help: "Time that whole migrations took of which this host was the source.", Buckets: durations,
	}, []string{"result"})
	s.downtime = s.histogram("migrate_downtime_seconds", "Time from the freeze on the source until the workload ran on the target, of migrations of which this host was the source.")
	s.frozen = s.histogram("migrate_frozen_seconds", "Time that workloads were frozen on this host, as the source.")
	s.transferred = s.counter("migrate_transferred_bytes_total", "Bytes sent by migrations that have ended.")
	s.memory = s.counter("migrate_memory_bytes_total", "Memory of the workloads that have moved away.")
	s.rounds = s.counter("migrate_rounds_total", "Rounds of copying memory, of migrations that have ended.")
	s.pages = s.counters("migrate_pages_total", "Pages of migrations that have ended, by how they went.", "how")
	s.redials = s.counter("migrate_redials_total", "Broken links that were taken up again.")
	s.drains = s.counters("migrate_drains_total", "Drains by commands on this host that have ended, by how.", "kind", "status")
	s.drained = s.counters("migrate_drain_workloads_total", "Workloads of drains that have ended, by what became of them.", "state")
	s.requests = s.counters("migrate_requests_total", "What peers and operators asked of this host's agent, by whether it was granted.", "what", "granted")
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "migrate_build_info", Help: "Version of migrate; always 1."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	s.registry.MustRegister(s.duration, info, &now{live},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.zero()
	return s
}

func (s *Set) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	s.registry.MustRegister(c)
	return c
}

func (s *Set) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	s.registry.MustRegister(c)
	return c
}

func (s *Set) histogram(name, help string) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: downtimes})
	s.registry.MustRegister(h)
	return h
}

// zero makes series known before anything happens, so that the first event is
// an increase.
func (s *Set) zero() {
	for _, side := range []migrate.Side{migrate.Source, migrate.Target} {
		for _, status := range []migrate.Status{migrate.StatusCompleted, migrate.StatusFailed, migrate.StatusCancelled} {
			s.migrations.WithLabelValues(string(side), string(status))
		}
	}
	s.duration.WithLabelValues(string(migrate.StatusCompleted))
	for _, how := range []string{"sent", "delta", "duplicate", "zero", "unchanged"} {
		s.pages.WithLabelValues(how)
	}
	for _, kind := range []string{"drain", "undrain"} {
		s.drains.WithLabelValues(kind, "completed")
	}
	s.drained.WithLabelValues("moved")
	s.requests.WithLabelValues("receive", "true")
}

// Migration counts one that has ended. r is what the source reports; the target
// knows nothing but the status.
func (s *Set) Migration(side migrate.Side, r migrate.Report) {
	s.migrations.WithLabelValues(string(side), string(r.Status)).Inc()
	if side != migrate.Source {
		return
	}
	s.duration.WithLabelValues(string(r.Status)).Observe(seconds(r.TotalTime))
	s.transferred.Add(float64(r.Transferred))
	s.redials.Add(float64(r.Redials))
	s.rounds.Add(float64(len(r.Rounds)))
	for _, round := range r.Rounds {
		s.pages.WithLabelValues("sent").Add(float64(round.Sent))
		s.pages.WithLabelValues("delta").Add(float64(round.Delta))
		s.pages.WithLabelValues("duplicate").Add(float64(round.Duplicate))
		s.pages.WithLabelValues("zero").Add(float64(round.Zero))
		s.pages.WithLabelValues("unchanged").Add(float64(round.Unchanged))
	}
	if r.FrozenTime > 0 {
		s.frozen.Observe(seconds(r.FrozenTime))
	}
	if r.Status == migrate.StatusCompleted && r.Downtime > 0 {
		s.memory.Add(float64(r.MemoryBytes))
		s.downtime.Observe(seconds(r.Downtime))
	}
}

// Drain counts one that has ended, with what became of its workloads.
func (s *Set) Drain(kind, status string, states map[string]int) {
	s.drains.WithLabelValues(kind, status).Inc()
	for state, n := range states {
		s.drained.WithLabelValues(state).Add(float64(n))
	}
}

// Request counts what somebody asked of the agent.
func (s *Set) Request(what string, granted bool) {
	s.requests.WithLabelValues(what, map[bool]string{true: "true", false: "false"}[granted]).Inc()
}

// Handler answers GET requests with the metrics.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

func seconds(m migrate.Millis) float64 { return float64(m) / 1e9 }
