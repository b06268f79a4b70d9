package target

import (
	"testing"
	"time"

	"migrate"
	"migrate/transport"
)

// TestReserve: two drains never get the same room; what expires or is given up
// is free again, and a drain's own room is no obstacle to its moves.
func TestReserve(t *testing.T) {
	const one, two migrate.ID = "00000000000000a1", "00000000000000a2"
	const mib = 1 << 20
	here := migrate.Host{Name: "B", MemoryAvailable: 1000 * mib, StoreAvailable: 1000 * mib}
	a := &Agent{drains: drains{}, reserved: 100 * mib}
	reserve := func(id migrate.ID, bytes uint64, ttl time.Duration, free uint64, ok bool) {
		t.Helper()
		r := a.reserve(transport.Reserve{Drain: id, Bytes: bytes * mib, TTL: ttl}, here)
		if r.Free != free*mib || (r.Failure == nil) != ok {
			t.Errorf("reserve(%s, %d MiB) = %d MiB free, %v, want %d, %v", id, bytes, r.Free/mib, r.Failure, free, ok)
		}
	}
	reserve(one, 600, time.Minute, 900, true)
	reserve(two, 400, time.Minute, 300, false)
	reserve(one, 700, time.Minute, 900, true) // in place of the 600
	reserve(two, 200, time.Minute, 200, true)
	reserve(one, 700, 24*time.Hour, 700, false)
	w := migrate.Workload{MemoryBytes: 180 * mib} // takes 2 × (180 + 45 + 64) on its way
	if f := a.room(w, one, here); f != nil {
		t.Errorf("room for a move of the drain that has it reserved: %v", f)
	}
	if f := a.room(w, "", here); f == nil || f.Code != "memory" {
		t.Errorf("room for another move = %v, want none", f)
	}
	reserve(one, 0, 0, 700, true)
	if f := a.room(w, "", here); f != nil {
		t.Errorf("room after it was given up: %v", f)
	}
	a.drains[two] = reservedFor{200 * mib, time.Now().Add(-time.Second)}
	reserve(one, 900, time.Minute, 900, true)
	if len(a.drains) != 1 {
		t.Errorf("%d reservations, want the one that has not expired", len(a.drains))
	}
}
