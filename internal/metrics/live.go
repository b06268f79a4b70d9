package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"migrate"
)

// now collects what goes on when it is asked for.
type now struct{ live func() Live }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	activeDesc    = describe("migrate_migrations_active", "Migrations that are not over, by the side that this host is and the phase.", "side", "phase")
	doubtDesc     = describe("migrate_migrations_in_doubt", "Migrations that are in doubt: a frozen copy waits here for the other host, or for an operator.")
	dirtyDesc     = describe("migrate_dirty_bytes_per_second", "Bytes that a workload under way writes to memory, by the last round.", "workload")
	wireDesc      = describe("migrate_wire_bytes_per_second", "What a migration under way sends, this round.", "workload")
	expectedDesc  = describe("migrate_expected_downtime_seconds", "Predicted downtime of a workload under way, were it frozen now.", "workload")
	throttleDesc  = describe("migrate_throttle_ratio", "Share of its processor time that is taken from a workload under way.", "workload")
	workloadsDesc = describe("migrate_workloads", "Workloads that run on this host, by kind.", "kind")
	cordonedDesc  = describe("migrate_cordoned", "1 if this host receives no workloads, as it is cordoned.")
	promisedDesc  = describe("migrate_promised_bytes", "Memory promised to moves under way and to drains.")
	storeDesc     = describe("migrate_store_free_bytes", "Room for received pages.")
	drainsDesc    = describe("migrate_drains_active", "Drains that commands on this host carry out.")
)

// Describe sends the descriptions of all that there may be.
func (*now) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		activeDesc, doubtDesc, dirtyDesc, wireDesc, expectedDesc, throttleDesc, workloadsDesc, cordonedDesc, promisedDesc, storeDesc, drainsDesc,
	} {
		ch <- d
	}
}

type sidePhase struct {
	side  migrate.Side
	phase migrate.Phase
}

// Collect sends what there is now.
func (n *now) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	l := n.live()
	phases, doubt := map[sidePhase]int{}, 0
	progress := map[string]*migrate.Progress{}
	for _, a := range l.Active {
		phases[sidePhase{a.Side, a.Phase}]++
		if a.InDoubt {
			doubt++
		}
		if a.Progress != nil {
			progress[a.Workload] = a.Progress
		}
	}
	for k, v := range phases {
		gauge(activeDesc, float64(v), string(k.side), k.phase.String())
	}
	for w, g := range progress {
		gauge(dirtyDesc, float64(g.DirtyRate), w)
		gauge(wireDesc, g.Mbps*1e6/8, w)
		gauge(expectedDesc, seconds(g.Expected), w)
		gauge(throttleDesc, float64(g.Throttle)/100, w)
	}
	for kind, v := range l.Workloads {
		gauge(workloadsDesc, float64(v), kind)
	}
	gauge(doubtDesc, float64(doubt))
	gauge(cordonedDesc, map[bool]float64{true: 1}[l.Cordoned])
	gauge(promisedDesc, float64(l.Promised))
	gauge(storeDesc, float64(l.StoreFree))
	gauge(drainsDesc, float64(l.Drains))
}
