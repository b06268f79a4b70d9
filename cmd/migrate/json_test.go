package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"migrate"
	"migrate/drain"
)

// jsonFields returns the names that v's type has in JSON.
func jsonFields(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		if f.Anonymous {
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			names = append(names, jsonFields(inner)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// TestJSONDoc holds docs/json.md and the code together: each section's table
// has the fields of its type, all and no other, in their order.
func TestJSONDoc(t *testing.T) {
	doc := documented(t)
	for section, v := range map[string]any{
		"event": migrate.Event{}, "progress": migrate.Progress{}, "result": migrate.Report{}, "round": migrate.Round{},
		"tree": migrate.Tree{}, "pass": migrate.TreePass{},
		"clock": migrate.Clock{}, "phase": migrate.PhaseTiming{}, "finding": migrate.Finding{}, "failure": migrate.Failure{},
		"check": checkResult{}, "migration": statusRow{}, "history": historyRow{}, "outcome": outcomeRow{},
		"workload": psRow{}, "certificate": certRow{}, "version": versionRow{}, "error": failureLine{}, "settings": settingsRow{}, "fill": fillRow{},
		"drain": drainLine{}, "drain-workload": drain.Item{}, "attempt": drain.Attempt{}, "rejection": drain.Rejection{},
		"drain-host": drain.Host{}, "limits": drain.Limits{}, "step": drain.Step{}, "drain-progress": drain.Progress{},
		"request": auditRow{}, "drain-history": drainRow{}, "host-migration": hostRow{},
	} {
		want := jsonFields(reflect.TypeOf(v))
		if got := doc[section]; !slices.Equal(got, want) {
			t.Errorf("docs/json.md, section %q:\n got  %q\n want %q", section, got, want)
		}
		delete(doc, section)
	}
	for section, fields := range doc {
		if len(fields) > 0 {
			t.Errorf("docs/json.md documents %q, which is no object", section)
		}
	}
}

// documented reads the field names of every section's table.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	heading := regexp.MustCompile(`^##+ (.+)$`)
	field := regexp.MustCompile("^\\| `([a-z0-9-]+)` \\|")
	doc, section := map[string][]string{}, ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if m := heading.FindStringSubmatch(line); m != nil {
			section = m[1]
		}
		if m := field.FindStringSubmatch(line); m != nil {
			doc[section] = append(doc[section], m[1])
		}
	}
	return doc
}
