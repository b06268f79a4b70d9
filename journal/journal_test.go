package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"migrate"
)

// TestMain lets the test binary stand in for a process that holds a record.
func TestMain(m *testing.M) {
	dir := os.Getenv("JOURNAL_CHILD")
	if dir == "" {
		os.Exit(m.Run())
	}
	j, err := Open(dir)
	var e *Entry
	if err == nil {
		e, err = j.Begin(record(childID, migrate.Source))
	}
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString("held\n")
	time.Sleep(time.Minute) // until killed
	e.Close()
}

const childID = "00000000000000c1"

func record(id migrate.ID, side migrate.Side) Record {
	return Record{
		ID: id, Side: side, Phase: migrate.Connect, Name: "w", Workload: "process:42",
		Peer: "b:7420", RootPID: 42, RootStart: 1 << 60, Cgroup: "/m", Placement: json.RawMessage(`{"v2":"/x"}`),
		Options: migrate.Options{}.WithDefaults(),
	}
}

func open(t *testing.T) *Journal {
	t.Helper()
	j, err := Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func begin(t *testing.T, j *Journal, id migrate.ID, side migrate.Side) *Entry {
	t.Helper()
	e, err := j.Begin(record(id, side))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// advance takes an entry through the shortest legal way to p.
func advance(t *testing.T, e *Entry, p migrate.Phase) {
	t.Helper()
	for _, q := range []migrate.Phase{
		migrate.Preflight, migrate.Prepare, migrate.Freeze, migrate.StopAndCopy, migrate.Restore,
		migrate.Held, migrate.Commit, migrate.Finish, migrate.Done,
	} {
		if q > p || (q == migrate.Held && e.Record().Side == migrate.Source) {
			continue
		}
		if err := e.Step(q, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStepIsOnDisk(t *testing.T) {
	j := open(t)
	e := begin(t, j, migrate.NewID(), migrate.Source)
	advance(t, e, migrate.Commit)
	err := e.Step(migrate.Finish, func(r *Record) {
		r.Status = migrate.StatusCompleted
		r.Report = &migrate.Report{ID: r.ID, Rounds: []migrate.Round{{Pages: 7}}}
		r.Phase, r.ID, r.Side = migrate.Connect, "x", "y" // ignored
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := j.Get(e.Record().ID, migrate.Source)
	if err != nil {
		t.Fatal(err)
	}
	want := e.Record()
	if got.Phase != migrate.Finish || got.Status != migrate.StatusCompleted || got.Report.Rounds[0].Pages != 7 {
		t.Errorf("on disk: %+v", got)
	}
	if !got.Updated.Equal(want.Updated) || !got.Started.Equal(want.Started) {
		t.Errorf("times = %v, %v, want %v, %v", got.Started, got.Updated, want.Started, want.Updated)
	}
	got.Started, got.Updated, got.Report = want.Started, want.Updated, want.Report
	if !reflect.DeepEqual(got, want) {
		t.Errorf("on disk:\n%+v\nin memory:\n%+v", got, want)
	}
}

// TestLegalSteps pins the direction of the phase table and what each side adds.
func TestLegalSteps(t *testing.T) {
	both := []migrate.Side{migrate.Source, migrate.Target}
	for _, c := range []struct {
		from, to migrate.Phase
		sides    []migrate.Side
	}{
		{migrate.Connect, migrate.Preflight, both},
		{migrate.Preflight, migrate.Connect, nil},
		{migrate.PreCopy, migrate.PreCopy, both},
		{migrate.Restore, migrate.Held, both[1:]},
		{migrate.Restore, migrate.Commit, both[:1]},
		{migrate.Held, migrate.Commit, both[1:]},
		{migrate.Held, migrate.RolledBack, both[1:]},
		{migrate.Commit, migrate.RolledBack, both},
		{migrate.Finish, migrate.RolledBack, nil},
		{migrate.Done, migrate.RolledBack, nil},
		{migrate.RolledBack, migrate.Commit, nil},
		{migrate.Commit, migrate.Done, nil},
	} {
		for _, side := range both {
			want := len(c.sides) == 2 || len(c.sides) == 1 && c.sides[0] == side
			if side == migrate.Source && (c.from == migrate.Held) {
				continue // cannot come about
			}
			if got := legal(side, c.from, c.to); got != want {
				t.Errorf("legal(%s, %v, %v) = %v, want %v", side, c.from, c.to, got, want)
			}
		}
	}
}

func TestFailedStepChangesNothing(t *testing.T) {
	j := open(t)
	e := begin(t, j, migrate.NewID(), migrate.Target)
	before := e.Record()
	wrong := func(r *Record) { r.Name = "changed" }
	if err := e.Step(migrate.Commit, wrong); err == nil {
		t.Error("Step from connect to commit = nil, want error")
	}
	unwritable := func(r *Record) { r.Placement = json.RawMessage("{") }
	if err := e.Step(migrate.Preflight, unwritable); err == nil {
		t.Error("Step with bad JSON = nil, want error")
	}
	if err := os.Rename(j.dir, j.dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := e.Step(migrate.Preflight, wrong); err == nil {
		t.Error("Step without directory = nil, want error")
	}
	if err := os.Rename(j.dir+".away", j.dir); err != nil {
		t.Fatal(err)
	}
	onDisk, err := j.Get(before.ID, before.Side)
	if err != nil || onDisk.Phase != before.Phase || onDisk.Name != before.Name {
		t.Errorf("on disk = %+v, %v, want unchanged", onDisk, err)
	}
	if got := e.Record(); !reflect.DeepEqual(got, before) {
		t.Errorf("in memory = %+v, want %+v", got, before)
	}
	if err := e.Step(migrate.Preflight, nil); err != nil {
		t.Errorf("Step after failures = %v", err)
	}
}

func TestOneDecides(t *testing.T) {
	j := open(t)
	id := migrate.NewID()
	e := begin(t, j, id, migrate.Source)
	begin(t, j, id, migrate.Target) // the other side on the same host is another matter
	if _, err := j.Take(id, migrate.Source); !errors.Is(err, ErrBusy) {
		t.Errorf("Take of a held record = %v, want ErrBusy", err)
	}
	if _, err := j.Begin(record(id, migrate.Source)); !errors.Is(err, ErrBusy) {
		t.Errorf("Begin of a held record = %v, want ErrBusy", err)
	}
	e.Close()
	e.Close()
	if err := e.Step(migrate.Preflight, nil); err == nil {
		t.Error("Step of a closed entry = nil, want error")
	}
	if _, err := j.Begin(record(id, migrate.Source)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Begin of a known ID = %v, want fs.ErrExist", err)
	}
	taken, err := j.Take(id, migrate.Source)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := taken.Step(migrate.RolledBack, nil); err != nil {
		t.Error(err)
	}
	if _, err := j.Take(migrate.NewID(), migrate.Source); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Take of an unknown ID = %v, want fs.ErrNotExist", err)
	}
}

// TestKilledProcessReleases: the lock goes with the process, the record stays.
func TestKilledProcessReleases(t *testing.T) {
	j := open(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), "JOURNAL_CHILD="+j.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	wantState(t, j, childID, Peer{Present, migrate.Connect, true})
	if _, err := j.Take(childID, migrate.Source); !errors.Is(err, ErrBusy) {
		t.Errorf("Take from a live process = %v, want ErrBusy", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says only that it was killed
	wantState(t, j, childID, Peer{Present, migrate.Connect, false})
	e, err := j.Take(childID, migrate.Source)
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
}

func wantState(t *testing.T, j *Journal, id migrate.ID, want Peer) {
	t.Helper()
	if got, err := j.State(id, migrate.Source); err != nil || got != want {
		t.Errorf("State = %+v, %v, want %+v", got, err, want)
	}
}

func TestStateOfUnknownLeavesNothing(t *testing.T) {
	j := open(t)
	wantState(t, j, migrate.NewID(), Peer{Answer: Absent})
	if names, _ := os.ReadDir(j.dir); len(names) != 0 {
		t.Errorf("State made %v", names)
	}
}

func TestDamage(t *testing.T) {
	j := open(t)
	id := migrate.NewID()
	e := begin(t, j, id, migrate.Source)
	e.Close()
	path := j.path(id, migrate.Source)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var bad [][]byte
	for n := range good {
		if n < len(good)-1 { // without the last newline it is still whole
			bad = append(bad, good[:n])
		}
		flipped := append([]byte{}, good...)
		flipped[n] ^= 0x10
		bad = append(bad, flipped)
	}
	other := strings.ReplaceAll(string(good), string(id), string(migrate.NewID()))
	bad = append(bad, []byte(other), []byte("null\n"), make([]byte, 4096))
	for _, b := range bad {
		if _, err := decode(filepath.Base(path), b); err == nil && !sameRecord(b, good) {
			t.Fatalf("decode(%q) = nil, want error", b)
		}
	}
	if err := os.WriteFile(path, bad[100], 0o600); err != nil {
		t.Fatal(err)
	}
	wantDamage(t, j, id)
}

// sameRecord allows for damage to the white space and key of the trailer.
func sameRecord(a, b []byte) bool {
	la, _, _ := strings.Cut(string(a), "\n")
	lb, _, _ := strings.Cut(string(b), "\n")
	return la == lb
}

func wantDamage(t *testing.T, j *Journal, id migrate.ID) {
	t.Helper()
	var damaged *DamagedError
	if _, err := j.Get(id, migrate.Source); !errors.As(err, &damaged) {
		t.Errorf("Get = %v, want a DamagedError", err)
	}
	if _, err := j.Take(id, migrate.Source); !errors.As(err, &damaged) {
		t.Errorf("Take = %v, want a DamagedError", err)
	}
	if _, err := j.Begin(record(id, migrate.Source)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Begin = %v, want fs.ErrExist", err)
	}
	wantState(t, j, id, Peer{Answer: Damaged})
	begin(t, j, migrate.NewID(), migrate.Target)
	if list, err := j.List(); len(list) != 1 || !errors.As(err, &damaged) {
		t.Errorf("List = %d records, %v, want 1 and a DamagedError", len(list), err)
	}
	if n, err := j.Prune(0); n != 0 || !errors.As(err, &damaged) {
		t.Errorf("Prune = %d, %v, want 0 and a DamagedError", n, err)
	}
}

func TestListAndPrune(t *testing.T) {
	j := open(t)
	var ids []migrate.ID
	for i := range 3 {
		rec := record(migrate.NewID(), migrate.Source)
		rec.Started = time.Unix(int64(i), 0)
		e, err := j.Begin(rec)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		ids = append(ids, rec.ID)
		if i > 0 {
			advance(t, e, migrate.Done)
		}
		if i == 1 {
			e.Close()
		}
	}
	list, err := j.List()
	if err != nil || len(list) != 3 || list[0].ID != ids[2] || list[2].ID != ids[0] {
		t.Errorf("List = %v, %v, want the newest first", list, err)
	}
	if n, err := j.Prune(time.Hour); n != 0 || err != nil {
		t.Errorf("Prune(1h) = %d, %v, want 0", n, err)
	}
	stale := filepath.Join(j.dir, "."+recordName(ids[0], migrate.Source)+".tmp-1")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(stale, time.Time{}, time.Now().Add(-2*abandoned)); err != nil {
		t.Fatal(err)
	}
	// 0 is not over, 2 is held by a process: only 1 goes.
	if n, err := j.Prune(0); n != 1 || err != nil {
		t.Errorf("Prune(0) = %d, %v, want 1", n, err)
	}
	names, _ := os.ReadDir(j.dir)
	if len(names) != 4 {
		t.Errorf("after Prune: %v, want two records and their locks", names)
	}
}

func TestBeginRefuses(t *testing.T) {
	j := open(t)
	for name, change := range map[string]func(*Record){
		"id":    func(r *Record) { r.ID = "../../etc/passwd" },
		"side":  func(r *Record) { r.Side = "middle" },
		"phase": func(r *Record) { r.Phase = 0 },
		"held":  func(r *Record) { r.Phase = migrate.Held },
	} {
		rec := record(migrate.NewID(), migrate.Source)
		change(&rec)
		if _, err := j.Begin(rec); err == nil {
			t.Errorf("Begin with bad %s = nil, want error", name)
		}
	}
	if names, _ := os.ReadDir(j.dir); len(names) != 0 {
		t.Errorf("Begin left %v", names)
	}
}

func FuzzDecode(f *testing.F) {
	rec := record(childID, migrate.Source)
	b, err := encode(rec)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(recordName(rec.ID, rec.Side), b)
	f.Add("x", []byte("{}\n{}"))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		r, err := decode(name, b)
		if err == nil && recordName(r.ID, r.Side) != name {
			t.Errorf("decode accepted %s under the name %q", recordName(r.ID, r.Side), name)
		}
	})
}

func BenchmarkStep(b *testing.B) {
	j, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	e, err := j.Begin(record(migrate.NewID(), migrate.Source))
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	for b.Loop() {
		if err := e.Update(nil); err != nil {
			b.Fatal(err)
		}
	}
}
