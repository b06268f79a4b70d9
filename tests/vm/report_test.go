package vm

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"migrate"
)

func TestReport(t *testing.T) {
	move := Move{From: "A", To: "B", Status: migrate.StatusCompleted, Downtime: migrate.Millis(612 * time.Millisecond), Rounds: 3, Transferred: 7 << 20, DirtyPages: []uint64{9}}
	rows := []Row{
		{Scenario: "hops", Kernels: "6.12 to 7.2", Verdict: "pass", Moves: []Move{move, move}},
		{Scenario: "link", Kernels: "6.12 to 7.2", Verdict: "fail"},
		{Scenario: "hops", Kernels: "6.1 to 7.2", Verdict: "pass", Moves: []Move{move}},
	}
	path := filepath.Join(t.TempDir(), "new", "report.json")
	if err := writeRows(path, rows); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRows(path)
	if err != nil || !reflect.DeepEqual(got, rows) {
		t.Errorf("read %+v, %v", got, err)
	}
	want := []string{
		"| hops | 6.1 to 7.2 | 612 | 3 | 7.0 | pass |",
		"| hops | 6.12 to 7.2 | 612, 612 | 3, 3 | 7.0, 7.0 | pass |",
		"| link | 6.12 to 7.2 |  |  |  | fail |",
	}
	if lines := strings.Split(strings.TrimSpace(Table(rows)), "\n"); !reflect.DeepEqual(lines[2:], want) {
		t.Errorf("got\n%s", strings.Join(lines, "\n"))
	}
}
