package network

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// footprint is what a migration could leave on a host.
func footprint(t *testing.T, host *Namespace) string {
	t.Helper()
	links := run(t, host, "", "ip", "-o", "link")
	return strings.Join([]string{links, run(t, host, "", "bridge", "link"), run(t, host, "", "nft", "list", "ruleset")}, "\n")
}

// What was made for a migration that fails goes again, without a trace, also by a process
// that knows nothing but its ID.
func TestRemoveLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, crashed := range []bool{false, true} {
		n := newLAN(t)
		w := workload(t, n.a, bridgeA, "10.77.0.50/24", "fd77::50/64")
		d := describe(t, w, n.a)
		before := footprint(t, n.b)
		path := filepath.Join(t.TempDir(), "netns", "web")
		target := n.target()

		ns, err := CreateNamed(path, target.ID)
		must(t, err)
		t.Cleanup(func() { removeShared(t, path) })
		must(t, target.Fill(ns, d))
		if footprint(t, n.b) == before {
			t.Fatal("nothing was made")
		}
		ns.Close()
		if crashed {
			target = &Target{ID: target.ID, Host: n.b}
		}
		again, err := Open(path)
		must(t, err)
		must(t, target.Remove(again))
		must(t, target.Remove(again))
		again.Close()
		must(t, RemoveNamed(path))
		must(t, RemoveNamed(path))
		must(t, target.Remove(nil))
		if got := footprint(t, n.b); got != before {
			t.Errorf("crashed %v: left\n%s\nwas\n%s", crashed, got, before)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}

// removeShared undoes what CreateNamed does to the directory of names.
func removeShared(t *testing.T, path string) {
	t.Helper()
	RemoveNamed(path)
	run(t, current(t), "", "umount", filepath.Dir(path))
}

func current(t *testing.T) *Namespace {
	t.Helper()
	ns, err := Current()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

// A target that fails half-way leaves nothing either.
func TestRemoveAfterFailure(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	d := describe(t, workload(t, n.a, bridgeA, "10.77.0.50/24"), n.a)
	before := footprint(t, n.b)
	d.Routes = append(d.Routes, Route{Dst: netipPrefix("192.0.2.0/24"), Gateway: netipPrefix("203.0.113.1/32").Addr(), Table: 254, Type: 1})
	target := n.target()
	ns := scratch(t)
	if err := target.Fill(ns, d); err == nil || !strings.Contains(err.Error(), "192.0.2.0/24") {
		t.Fatalf("Fill() with a route that leads nowhere = %v", err)
	}
	must(t, target.Remove(ns))
	if got := footprint(t, n.b); got != before {
		t.Errorf("left\n%s\nwas\n%s", got, before)
	}
}

// Once it is open, what was made is the workload's: a Remove that comes late, or another
// process that opens it again, does no harm.
func TestUpIsForGood(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	w := workload(t, n.a, bridgeA, "10.77.0.50/24")
	d := describe(t, w, n.a)
	target := n.target()
	moved := scratch(t)
	must(t, target.Fill(moved, d))
	must(t, Lock(w, target.ID))
	other := &Target{ID: target.ID, Host: n.b}
	must(t, other.Up(moved, d))
	must(t, target.Up(moved, d))
	must(t, other.Up(moved, d))
	must(t, other.Remove(nil))
	serve(t, moved, "b")
	must(t, Release(w, d))
	must(t, Release(w, d))
	must(t, Announce(t.Context(), moved, d, Rounds{Count: 1}))
	if got := newAsker(t, n.client, "10.77.0.50").ask(t, patience); got != "b" {
		t.Errorf("%q answers", got)
	}
	if got := run(t, n.a, "", "ip", "-o", "link"); strings.Contains(got, "veth-web") {
		t.Errorf("the source has still its end: %s", got)
	}
}

// The host's end gets another name if its own is taken.
func TestEndNameTaken(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	d := describe(t, workload(t, n.a, bridgeA, "10.77.0.50/24"), n.a)
	ip(t, n.b, "link add veth-web type veth peer name other")
	target := n.target()
	ns := scratch(t)
	must(t, target.Fill(ns, d))
	must(t, target.Up(ns, d))
	must(t, target.Remove(ns))
	if got := run(t, n.b, "", "ip", "-o", "link"); !strings.Contains(got, "veth-web@other") {
		t.Errorf("somebody else's link is gone: %s", got)
	}
}

// The host's bridge does not take its address from a workload's link.
func TestBridgeKeepsMAC(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	d := describe(t, workload(t, n.a, bridgeA, "10.77.0.50/24"), n.a)
	must(t, n.target().Fill(scratch(t), d))
	end, err := handleIn(t, n.b).LinkByName(d.Links[1].Peer.Name)
	must(t, err)
	if mac := end.Attrs().HardwareAddr; mac[0] != 0xfe {
		t.Errorf("the host's end has the address %s, want a high one", mac)
	}
}
