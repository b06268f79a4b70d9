package workload

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestRecordRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if list, err := List(dir); err != nil || len(list) != 0 {
		t.Errorf("List(nothing) = %v, %v", list, err)
	}
	if _, err := Load(dir, "web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load(none) = %v, want ErrNotExist", err)
	}
	want := Record{
		Name: "web", Kind: Capsule, Command: []string{"sleep", "1"}, Root: Live{PID: 5, Start: 6}, Supervisor: Live{PID: 7, Start: 8},
		Cgroup: "/sys/fs/cgroup/migrate/web", Started: time.Unix(1, 2).UTC(), Arrived: time.Unix(3, 4).UTC(), Migration: "0123456789abcdef",
		State: Exited, ExitCode: 3, Signal: 9, Ended: time.Unix(5, 6).UTC(), MovedTo: "b", MonoOffset: -1, BootOffset: 2,
		LogFiles: []string{"/l"}, LogLimit: 10, Dir: "/", Init: "/i",
	}
	for range 2 {
		if err := Save(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Load(dir, "web"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Load = %+v, %v, want %+v", got, err, want)
	}
	other := Record{Name: "a", Kind: Process, State: Running, Started: time.Unix(9, 0).UTC()}
	if err := Save(dir, other); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(RecordDir(dir, "unborn"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := List(dir); err != nil || !reflect.DeepEqual(got, []Record{other, want}) {
		t.Errorf("List = %+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(RecordDir(dir, "unborn"), "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := List(dir); err == nil || len(got) != 2 {
		t.Errorf("List with a bad record = %+v, %v, want 2 and an error", got, err)
	}
	if err := Remove(dir, "web"); err != nil {
		t.Error(err)
	}
	if _, err := Load(dir, "web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load after Remove = %v", err)
	}
}

func TestRecordNames(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"", "..", "a/b", ".hidden"} {
		if err := Save(dir, Record{Name: name}); err == nil {
			t.Errorf("Save(%q) = nil, want an error", name)
		}
		if _, err := Load(dir, name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load(%q) = %v, want an error about the name", name, err)
		}
		if err := Remove(dir, name); err == nil {
			t.Errorf("Remove(%q) = nil, want an error", name)
		}
	}
}

func TestAlive(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	l, err := Identify(cmd.Process.Pid)
	if err != nil || !l.Alive() {
		t.Fatalf("Identify = %+v, %v, want one that is alive", l, err)
	}
	if reused := (Live{PID: l.PID, Start: l.Start + 1}); reused.Alive() {
		t.Error("a number used again counts as alive")
	}
	if (Live{}).Alive() {
		t.Error("nobody is alive")
	}
	if r := (Record{Root: l}); r.LiveRoot() != l.PID {
		t.Errorf("LiveRoot = %d, want %d", r.LiveRoot(), l.PID)
	}
	dir := t.TempDir()
	if err := Save(dir, Record{Name: "x", State: Running, Root: l}); err != nil {
		t.Fatal(err)
	}
	if !NameTaken(dir, "x") || NameTaken(dir, "y") {
		t.Error("NameTaken is wrong while it runs")
	}
	_ = cmd.Process.Kill()
	if err := l.AwaitEnd(t.Context()); err != nil { // a zombie until waited for, and not alive
		t.Fatal(err)
	}
	if NameTaken(dir, "x") {
		t.Error("NameTaken = true after the end")
	}
	if r := (Record{Root: l}); r.LiveRoot() != 0 {
		t.Errorf("LiveRoot = %d after the end, want 0", r.LiveRoot())
	}
}
