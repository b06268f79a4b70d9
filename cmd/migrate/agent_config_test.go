package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"migrate"
	"migrate/internal/cordon"
)

// configured returns the agent's options for a command line and a file.
func configured(t *testing.T, text string, args ...string) (*agentOptions, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := new(agentOptions)
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	bindAgent(flags, o)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o, configure(flags, file)
}

func TestConfigure(t *testing.T) {
	o, err := configured(t, "allow: [hostA, hostB]\nallow-operator: admin\nbandwidth: 1gbit\nidle-timeout: 9s\ncordon: true\nlisten: \":7000\"\n", "--listen", ":7001", "--allow-operator", "root")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.allow, []string{"hostA", "hostB"}) || o.bandwidth != 125e6 || o.idle != 9*time.Second || !o.cordon {
		t.Errorf("from the file: %+v", o)
	}
	if o.listen != ":7001" || !slices.Equal(o.allowOperators, []string{"root"}) {
		t.Errorf("the command line does not win: %+v", o)
	}
	if _, err := configured(t, "# nothing\n"); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestConfigureRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want, advice string }{
		"typo":       {"alow: [hostA]", `unknown key "alow"`, "did you mean allow?"},
		"other typo": {"allow-operators: x", "unknown key", "did you mean allow-operator?"},
		"nonsense":   {"colour: red", "unknown key", "migrate agent"},
		"not a key":  {"config: other.yaml", "unknown key", ""},
		"bad value":  {"bandwidth: fast", "bandwidth: ", ""},
		"no value":   {"listen:", "listen: there is no value", ""},
		"two":        {"listen: [a, b]", "want one value", ""},
		"mapping":    {"allow: {a: b}", "not a mapping", ""},
		"no yaml":    {"allow: [", "agent.yaml", ""},
	} {
		_, err := configured(t, c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || exitCode(err) != codeUsage {
			t.Errorf("%s: %v, want %q", name, err, c.want)
			continue
		}
		if f := failureOf(err); !strings.Contains(f.Advice, c.advice) {
			t.Errorf("%s: advice %q, want %q", name, f.Advice, c.advice)
		}
	}
}

// TestReload: what can change does so at once, and a file with a mistake changes
// nothing.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &app{stateDir: dir, runDir: dir, pkiDir: dir}
	l := &liveAgent{given: map[string][]string{"allow-operator": {"admin"}}, level: new(slog.LevelVar)}
	l.side = &sourceSide{app: a, live: l, driving: map[migrate.ID]int64{}}
	l.options.Store(&agentOptions{allow: []string{"hostA"}, allowOperators: []string{"admin"}, listen: ":7420", advertise: "x:7420"})
	var logged strings.Builder
	log := slog.New(slog.NewTextHandler(&logged, nil))
	write("allow: [hostB]\nallow-operator: [other]\nbandwidth: 1MB\ncordon: true\nlog-level: debug\nlisten: \":9\"\n")
	l.reloadNow(a, file, log)
	if l.allows("hostA") || !l.allows("hostB") || !l.allowsOperator("admin") || l.allowsOperator("other") {
		t.Errorf("who is allowed: %+v", l.options.Load())
	}
	if l.capped(0) != 1e6 || l.capped(5) != 5 || l.level.Level() != slog.LevelDebug || l.options.Load().listen != ":7420" {
		t.Errorf("after a change: %+v", l.options.Load())
	}
	if c, err := cordon.Load(dir); err != nil || c == nil {
		t.Errorf("not cordoned: %v, %v", c, err)
	}
	if !strings.Contains(logged.String(), "need a new start") {
		t.Errorf("log: %s", logged.String())
	}
	write("allow: [hostC]\ncordno: false\n")
	l.reloadNow(a, file, log)
	if !l.allows("hostB") || l.allows("hostC") || !strings.Contains(logged.String(), "did you mean cordon") {
		t.Errorf("a mistake in the file: %+v\n%s", l.options.Load(), logged.String())
	}
	write("allow: []\n")
	l.reloadNow(a, file, log)
	if c, err := cordon.Load(dir); l.allows("hostB") || err != nil || c != nil {
		t.Errorf("after the settings were removed: %+v, %v, %v", l.options.Load(), c, err)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "abc", 3}, {"allow", "alow", 1}, {"listen", "listen", 0}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
