package target

import (
	"testing"

	"migrate"
)

// What a source says at the freeze changes the facts, and nothing that was checked before.
func TestAsOffered(t *testing.T) {
	offered := migrate.Workload{
		Kind: "runc", Name: "runc-web", ID: "web", Init: "/state/bin/init-1", MemoryBytes: 1,
		Container: &migrate.Container{Bundle: "/srv/web"},
	}
	frozen := migrate.Workload{
		Kind: "process", Name: "../x", ID: "x", Init: "/bin/sh", MemoryBytes: 2,
		Container: &migrate.Container{Bundle: "/etc", Mounts: []migrate.ContainerMount{{Path: "/mnt", Source: "/etc"}}},
	}
	got := asOffered(offered, frozen)
	if got.Kind != "runc" || got.Name != "runc-web" || got.ID != "web" || got.Init != offered.Init || got.Container != offered.Container {
		t.Errorf("asOffered = %+v, want what was offered", got)
	}
	if got.MemoryBytes != 2 {
		t.Errorf("memory = %d, want that of the frozen tree", got.MemoryBytes)
	}
}
