package target

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"migrate"
	"migrate/transport"
)

func host(change func(*migrate.Host)) migrate.Host {
	h := migrate.Host{
		Name: "B", Kernel: "6.12.1", Arch: "amd64", CRIU: "4.2.1", CRIUNumber: 40201, TimeNamespaces: true,
		MemoryAvailable: 8 << 30, StoreAvailable: 8 << 30, LazyPages: true,
	}
	if change != nil {
		change(&h)
	}
	return h
}

func TestCompareHosts(t *testing.T) {
	near := transport.Bounds{OffsetNS: int64(time.Second), BoundNS: int64(time.Millisecond)} // the target is ahead
	behind := transport.Bounds{OffsetNS: -int64(time.Hour), BoundNS: int64(time.Millisecond)}
	tests := []struct {
		name     string
		target   func(*migrate.Host)
		offer    func(*transport.Offer)
		blockers []string
		warnings []string
	}{
		{name: "equal hosts"},
		{name: "other architecture", target: func(h *migrate.Host) { h.Arch = "arm64" }, blockers: []string{"arch"}},
		{name: "older CRIU", target: func(h *migrate.Host) { h.CRIUNumber = 40101 }, blockers: []string{"criu-older"}},
		{name: "newer CRIU", target: func(h *migrate.Host) { h.CRIUNumber = 50000 }},
		{name: "older kernel", target: func(h *migrate.Host) { h.Kernel = "6.1.0-50" }, warnings: []string{"kernel-older"}},
		{
			name: "lazy restore where there is none", target: func(h *migrate.Host) { h.LazyPages = false },
			offer: func(o *transport.Offer) { o.Options.Restore = migrate.RestoreLazy }, blockers: []string{"no-lazy-restore"},
		},
		{name: "lazy restore", offer: func(o *transport.Offer) { o.Options.Restore = migrate.RestoreLazy }},
		{name: "lazy restore if possible", target: func(h *migrate.Host) { h.LazyPages = false }},
		{
			name: "no time namespaces, clock would step back", target: func(h *migrate.Host) { h.TimeNamespaces = false },
			offer: func(o *transport.Offer) { o.Monotonic, o.Boottime = behind, behind }, blockers: []string{"clock-backward", "clock-backward"},
		},
		{
			name: "no time namespaces, clock jumps ahead", target: func(h *migrate.Host) { h.TimeNamespaces = false },
			warnings: []string{"clock-jump"},
		},
		{
			name: "no time namespaces, the workload lives in one", target: func(h *migrate.Host) { h.TimeNamespaces = false },
			offer: func(o *transport.Offer) { o.Workload.OwnTime = true }, blockers: []string{"no-time-namespaces"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := transport.Offer{Host: host(nil), Monotonic: near, Boottime: near}
			if tt.offer != nil {
				tt.offer(&o)
			}
			b, w := compareHosts(o, host(tt.target))
			if got := codes(b); !slices.Equal(got, tt.blockers) {
				t.Errorf("blockers = %q, want %q", got, tt.blockers)
			}
			if got := codes(w); !slices.Equal(got, tt.warnings) {
				t.Errorf("warnings = %q, want %q", got, tt.warnings)
			}
			for _, f := range append(b, w...) {
				if f.What == "" || f.Advice == "" {
					t.Errorf("finding without words: %+v", f)
				}
			}
		})
	}
}

func codes(list []migrate.Finding) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Code)
	}
	return out
}

func TestKernelOlder(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"6.1.0-50-cloud-amd64", "6.12.107+deb13", true}, {"6.12.1", "6.1.9", false}, {"6.12.1", "6.12.9", false},
		{"7.2", "6.12", false}, {"5.15", "6.1", true}, {"odd", "6.1", true},
	}
	for _, tt := range tests {
		if got := kernelOlder(tt.a, tt.b); got != tt.want {
			t.Errorf("kernelOlder(%q, %q) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestRoom(t *testing.T) {
	const gib = 1 << 30
	tests := []struct {
		name             string
		memory, reserved uint64
		here             migrate.Host
		want             string
	}{
		{"fits", gib, 0, host(nil), ""},
		{"too large for the memory", 4 * gib, 0, host(nil), "memory"},
		{"room is promised to others", 2 * gib, 5 * gib, host(nil), "memory"},
		{"too large for the store", gib, 0, host(func(h *migrate.Host) { h.StoreAvailable = gib }), "store"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &Agent{reserved: tt.reserved}
			got := ""
			if f := a.room(migrate.Workload{MemoryBytes: tt.memory}, "", tt.here); f != nil {
				got = f.Code
			}
			if got != tt.want {
				t.Errorf("room() = %q, want %q", got, tt.want)
			}
		})
	}
}

// TestGrow has workloads grow during their moves: they get what is free, and
// not what was promised to others.
func TestGrow(t *testing.T) {
	store := t.TempDir()
	a := &Agent{cfg: Config{Store: store}, log: slog.New(slog.DiscardHandler)}
	here, err := a.free()
	if err != nil {
		t.Fatal(err)
	}
	grower := func() *receiver {
		r := a.newReceiver(migrate.NewID(), transport.Offer{})
		if err := os.Mkdir(r.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		r.reserved = migrate.StoreReservation(0)
		a.reserved += r.reserved
		return r
	}
	modest, greedy := grower(), grower()
	granted, err := modest.grow(4096)
	if err != nil || granted < 4096 || modest.reserved != migrate.StoreReservation(0)+granted {
		t.Errorf("grow() = %d, %v; %d bytes are reserved", granted, err, modest.reserved)
	}
	for range 1000 {
		if _, err = greedy.grow(min(here.MemoryAvailable, here.StoreAvailable) / 20); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), here.Name+" has ") && !strings.Contains(err.Error(), "the store on "+here.Name) {
		t.Errorf("one that always wants more gets %v", err)
	}
	if greedy.reserved > here.MemoryAvailable || greedy.reserved+modest.reserved > here.StoreAvailable {
		t.Errorf("one that always wants more has %d bytes, of %d of memory and %d of store", greedy.reserved, here.MemoryAvailable, here.StoreAvailable)
	}
	if a.reserved != modest.reserved+greedy.reserved {
		t.Errorf("%d bytes are promised, to migrations that have %d and %d", a.reserved, modest.reserved, greedy.reserved)
	}
}

// TestRoomOfWhatHasCome looks at a move that has filled a part of its
// reservation: that part is not free any more, and not needed any more.
func TestRoomOfWhatHasCome(t *testing.T) {
	const gib = 1 << 30
	here := host(func(h *migrate.Host) { h.MemoryAvailable, h.StoreAvailable = 2*gib, 2*gib })
	for _, tt := range []struct {
		room room
		want bool
	}{
		{room{need: gib}, true},
		{room{need: 2 * gib}, false},
		{room{need: 2 * gib, stored: gib}, false},
		{room{need: 2 * gib, stored: 2 * gib}, true},
		{room{need: 2 * gib, stored: 2 * gib, promised: 1}, false},
	} {
		if f := tt.room.in(here); (f == nil) != tt.want {
			t.Errorf("%+v: %+v", tt.room, f)
		}
	}
}
