package workload

import (
	"maps"
	"os"
	"strings"
	"testing"
)

func TestLabels(t *testing.T) {
	dir := t.TempDir()
	me, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"app": "web", "target/zone": "a b"}
	dead := Live{PID: me.PID, Start: me.Start + 1} // another process with our number
	for _, l := range []Labelled{
		{Name: "web", Kind: Capsule, Root: me, Labels: want},
		{Name: "process-7", Kind: Process, Root: dead, Labels: want},
	} {
		if err := SaveLabels(dir, l); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Labels(dir, "web", me); err != nil || !maps.Equal(got, want) {
		t.Errorf("Labels = %v, %v, want %v", got, err, want)
	}
	if got, err := Labels(dir, "process-7", me); err != nil || got != nil {
		t.Errorf("Labels of a number that was used again = %v, %v, want none", got, err)
	}
	list, err := ListLabelled(dir)
	if err != nil || len(list) != 1 || list[0].Name != "web" {
		t.Errorf("ListLabelled = %+v, %v, want web alone", list, err)
	}
	if _, err := os.Stat(RecordDir(dir, "process-7")); err == nil {
		t.Error("labels of a process that has ended are kept for ever")
	}
	if err := SaveLabels(dir, Labelled{Name: "web", Kind: Capsule, Root: me}); err != nil {
		t.Fatal(err)
	}
	if got, _ := Labels(dir, "web", me); got != nil {
		t.Errorf("Labels after they were removed = %v", got)
	}
}

func TestValidLabels(t *testing.T) {
	many := map[string]string{}
	for i := range maxLabels + 1 {
		many[strings.Repeat("a", i+1)[:min(i+1, 60)]+string(rune('a'+i%26))+string(rune('a'+i/26))] = ""
	}
	for name, c := range map[string]struct {
		labels map[string]string
		ok     bool
	}{
		"none":          {nil, true},
		"usual":         {map[string]string{"app": "web", "a.b/c-d_e": ""}, true},
		"too many":      {many, false},
		"empty key":     {map[string]string{"": "x"}, false},
		"path":          {map[string]string{"../x": "x"}, false},
		"long key":      {map[string]string{strings.Repeat("k", 64): ""}, false},
		"long value":    {map[string]string{"k": strings.Repeat("v", 256)}, false},
		"control bytes": {map[string]string{"k": "\x1b[2J"}, false},
		"comma":         {map[string]string{"k": "a,b"}, false},
	} {
		if err := ValidLabels(c.labels); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
