package workload

import (
	"os"
	"testing"
	"time"
)

func TestDiscover(t *testing.T) {
	dir := t.TempDir()
	me, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	dead := Live{PID: me.PID, Start: me.Start + 1}
	for _, r := range []Record{
		{Name: "web", Kind: Capsule, Root: me, State: Running},
		{Name: "gone", Kind: Capsule, Root: dead, State: Running},
		{Name: "process-9", Kind: Process, Root: me, State: Running},
	} {
		if err := Save(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []Labelled{
		{Name: "process-7", Kind: Process, Root: me, Labels: map[string]string{"app": "db"}},
		{Name: "process-9", Kind: Process, Root: me, Labels: map[string]string{"app": "old"}},
		{Name: "web", Kind: Capsule, Root: me, Labels: map[string]string{"app": "web"}},
	} {
		if err := SaveLabels(dir, l); err != nil {
			t.Fatal(err)
		}
	}
	list, err := Discover(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"capsule:web", "process:7", "process:9"}
	if len(list) != len(want) {
		t.Fatalf("Discover = %+v, want %q", list, want)
	}
	for i, f := range list {
		if f.Ref.String() != want[i] {
			t.Errorf("Discover[%d] = %s, want %s", i, f.Ref, want[i])
		}
	}
	for end := time.Now().Add(1200 * time.Millisecond); time.Now().Before(end); { // be busy
	}
	l, err := list[0].Listed(t.Context(), dir, false)
	if err != nil || l.Memory == 0 || l.CPU <= 0 || l.Labels["app"] != "web" || l.Start != me.Start || l.PID != me.PID {
		t.Errorf("Listed = %+v, %v", l, err)
	}
}
