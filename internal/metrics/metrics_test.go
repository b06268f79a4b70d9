package metrics

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"migrate"
)

// busy is a host on which everything goes on.
func busy() *Set {
	s := New("v1", func() Live {
		return Live{
			Active: []Active{
				{Side: migrate.Source, Phase: migrate.PreCopy, Workload: "capsule:web", Progress: &migrate.Progress{DirtyRate: 1 << 20, Mbps: 80, Throttle: 30, Expected: migrate.Millis(80 * time.Millisecond)}},
				{Side: migrate.Target, Phase: migrate.Held, Workload: "capsule:db", InDoubt: true},
			},
			Workloads: map[string]int{"capsule": 3}, Cordoned: true, Promised: 5, StoreFree: 7, Drains: 1,
		}
	})
	s.Migration(migrate.Source, migrate.Report{
		Status: migrate.StatusCompleted, TotalTime: migrate.Millis(2 * time.Second), Downtime: migrate.Millis(40 * time.Millisecond),
		FrozenTime: migrate.Millis(50 * time.Millisecond), Transferred: 100, MemoryBytes: 1000, Redials: 1,
		Rounds: []migrate.Round{{Sent: 3, Delta: 2}, {Zero: 1, Unchanged: 4, Duplicate: 5}},
	})
	s.Migration(migrate.Target, migrate.Report{Status: migrate.StatusFailed, Transferred: 999})
	s.Drain("drain", "failed", map[string]int{"moved": 4, "failed": 1})
	s.Request("move", false)
	return s
}

func scrape(t *testing.T, s *Set) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	b, err := io.ReadAll(w.Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("%d, %v: %s", w.Code, err, b)
	}
	return string(b)
}

func TestWhatIsCounted(t *testing.T) {
	text := scrape(t, busy())
	for _, want := range []string{
		`migrate_migrations_total{result="completed",side="source"} 1`, `migrate_migrations_total{result="failed",side="target"} 1`,
		`migrate_migrations_total{result="cancelled",side="source"} 0`,
		`migrate_downtime_seconds_bucket{le="0.05"} 1`, `migrate_downtime_seconds_bucket{le="0.02"} 0`, `migrate_downtime_seconds_sum 0.04`,
		`migrate_frozen_seconds_count 1`, `migrate_migration_duration_seconds_sum{result="completed"} 2`,
		`migrate_transferred_bytes_total 100`, `migrate_memory_bytes_total 1000`, `migrate_rounds_total 2`, `migrate_redials_total 1`,
		`migrate_pages_total{how="sent"} 3`, `migrate_pages_total{how="unchanged"} 4`,
		`migrate_migrations_active{phase="pre-copy",side="source"} 1`, `migrate_migrations_active{phase="held",side="target"} 1`,
		`migrate_migrations_in_doubt 1`, `migrate_dirty_bytes_per_second{workload="capsule:web"} 1.048576e+06`,
		`migrate_wire_bytes_per_second{workload="capsule:web"} 1e+07`, `migrate_throttle_ratio{workload="capsule:web"} 0.3`,
		`migrate_workloads{kind="capsule"} 3`, `migrate_cordoned 1`, `migrate_promised_bytes 5`, `migrate_store_free_bytes 7`, `migrate_drains_active 1`,
		`migrate_drains_total{kind="drain",status="failed"} 1`, `migrate_drain_workloads_total{state="moved"} 4`,
		`migrate_requests_total{granted="false",what="move"} 1`, `migrate_build_info{version="v1"} 1`, "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

// TestNames has Prometheus' own rules look at names and help texts.
func TestNames(t *testing.T) {
	s := busy()
	problems, err := testutil.GatherAndLint(s.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "migrate_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	tool, err := exec.LookPath("promtool")
	if err != nil {
		return // it has the same rules
	}
	cmd := exec.CommandContext(t.Context(), tool, "check", "metrics")
	cmd.Stdin = bytes.NewBufferString(scrape(t, s))
	if out, err := cmd.CombinedOutput(); err != nil && strings.Contains(string(out), "migrate_") {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestDashboard: every query of the dashboard asks for metrics that there are,
// and every metric of ours is asked for.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("../../packaging/grafana/migrate.json")
	if err != nil {
		t.Fatal(err)
	}
	var board any
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	text := scrape(t, busy())
	name := regexp.MustCompile(`\bmigrate_[a-z_]+`)
	asked := map[string]bool{}
	for _, query := range queries(board) {
		names := name.FindAllString(query, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for nothing of ours", query)
		}
		for _, n := range names {
			asked[strings.TrimSuffix(n, "_bucket")] = true
			if !strings.Contains(text, "\n"+n+"{") && !strings.Contains(text, "\n"+n+" ") {
				t.Errorf("%s: there is no %s", query, n)
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (migrate_[a-z_]+)`).FindAllStringSubmatch(text, -1) {
		if !asked[m[1]] {
			t.Errorf("the dashboard does not show %s", m[1])
		}
	}
}

// queries returns all that is asked of Prometheus.
func queries(v any) (list []string) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if s, ok := inner.(string); ok && (k == "expr" || k == "query" && strings.Contains(s, "(")) {
				list = append(list, s)
				continue
			}
			list = append(list, queries(inner)...)
		}
	case []any:
		for _, inner := range v {
			list = append(list, queries(inner)...)
		}
	}
	return list
}
