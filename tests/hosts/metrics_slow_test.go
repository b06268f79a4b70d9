//go:build slow

package hosts

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"migrate/internal/testhost"
)

// TestPromtool has Prometheus' own tool look at what agents serve after moves, a
// drain, and requests that were refused.
func TestPromtool(t *testing.T) {
	runCases(t, []behaviour{{"metrics of an agent", testPromtool}})
}

func testPromtool(t *testing.T, h trio) {
	cleanCordons(t, h)
	tool := promtool(t)
	const address = "127.0.0.1:7421"
	for _, host := range []*testhost.Host{h.a, h.b} {
		replaceAgent(t, host, "--metrics", address)
	}
	f := fleet{}
	f.quiet(t, h.a, "one", 1)
	f.quiet(t, h.a, "two", 1)
	move(t, h.a, "capsule:one", h.b)
	move(t, h.c, "B/capsule:one", h.a)
	runDrain(t, h.a, 0, "drain", "--to", "B")
	if _, code, _ := tryMove(t, h.b, "capsule:one", "A"); code != 3 { // it is cordoned
		t.Errorf("exit code %d", code)
	}
	for host, wants := range map[*testhost.Host][]string{
		h.a: {`migrate_migrations_total{result="completed",side="source"} 3`, `migrate_migrations_total{result="completed",side="target"} 1`,
			`migrate_drains_total{kind="drain",status="completed"} 1`, `migrate_drain_workloads_total{state="moved"} 2`, `migrate_cordoned 1`},
		h.b: {`migrate_migrations_total{result="completed",side="source"} 1`, `migrate_migrations_total{result="completed",side="target"} 3`,
			`migrate_workloads{kind="capsule"} 2`, `migrate_requests_total{granted="true",what="move"} 1`},
	} {
		var text string
		for _, want := range wants {
			await(t, "the metrics of "+host.Name+" have "+want, func() bool {
				text = scrape(t, host, address)
				return strings.Contains(text, "\n"+want+"\n")
			})
		}
		cmd := exec.CommandContext(t.Context(), tool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("promtool check metrics on the metrics of %s: %v\n%s", host.Name, err, out)
		}
	}
}

// promtool returns the path of it.
func promtool(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../scripts/promtool")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scripts/promtool: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// replaceAgent has the host's agent run with more flags for as long as the test.
func replaceAgent(t *testing.T, h *testhost.Host, flags ...string) {
	t.Helper()
	if err := h.KillAgent(); err != nil {
		t.Fatal(err)
	}
	args := []string{"migrate", "agent", "--listen", ":7420"}
	for _, name := range []string{"A", "B", "C"} {
		args = append(args, "--allow", name, "--allow-operator", name)
	}
	if _, err := h.Start(t.Context(), append(args, flags...)...); err != nil {
		t.Fatal(err)
	}
	await(t, "the agent answers", func() bool {
		_, err := h.Output(t.Context(), "migrate", "status", "--all", "--host", h.Name)
		return err == nil
	})
	t.Cleanup(func() {
		if err := h.KillAgent(); err != nil {
			t.Error(err)
		}
		if err := h.StartAgent(nil); err != nil {
			t.Error(err)
		}
	})
}

// scrape returns the metrics that a host's agent serves.
func scrape(t *testing.T, h *testhost.Host, address string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return h.Dial(ctx, "tcp", address) },
		DisableKeepAlives: true,
	}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", answer.Status, err)
	}
	return string(b)
}
