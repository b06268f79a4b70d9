package drain

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func gib(s string) (uint64, error) {
	if s != "8GiB" {
		return 0, errors.New("no size")
	}
	return 8 << 30, nil
}

func TestInventory(t *testing.T) {
	got, err := ParseInventory([]byte(`
hosts:
  - name: B
    labels: {zone: a, disk: ssd}
    capacity: {memory: 8GiB, cpus: 4, workloads: 20}
    limits: {incoming: 2}
  - name: C
    address: 10.0.0.3:7421
`), gib)
	want := []Host{
		{Name: "B", Address: "B", Labels: map[string]string{"zone": "a", "disk": "ssd"}, Limits: Limits{Memory: 8 << 30, CPUs: 4, Workloads: 20, Incoming: 2}},
		{Name: "C", Address: "10.0.0.3:7421"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseInventory = %+v, %v, want %+v", got, err, want)
	}
	if got := Chosen(got, needs("zone=a")); len(got) != 1 || got[0].Name != "B" {
		t.Errorf("Chosen = %+v, want B", got)
	}
}

func TestInventoryIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":        {"", "no hosts"},
		"no yaml":      {"hosts: [", "[1:8]"},
		"unknown key":  {"hosts:\n  - title: B\n", "title"},
		"no name":      {"hosts:\n  - address: B\n", "host 1 has no name"},
		"twice":        {"hosts:\n  - name: B\n  - name: B\n", "twice"},
		"bad size":     {"hosts:\n  - name: B\n    capacity: {memory: lots}\n", "memory"},
		"negative":     {"hosts:\n  - name: B\n    limits: {incoming: -1}\n", "negative"},
		"wrong type":   {"hosts: B\n", "sequence is expected"},
		"another list": {"- B\n", ""},
	} {
		if list, err := ParseInventory([]byte(c.text), gib); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v, want an error with %q", name, list, err, c.want)
		}
	}
}
