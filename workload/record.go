package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/internal/atomicfile"
	"migrate/workload/proc"
)

// State is how a recorded workload stands.
type State string

// The states.
const (
	Starting State = "starting" // recorded, not yet running
	Running  State = "running"
	Exited   State = "exited" // ExitCode or Signal say how
	Moved    State = "moved"  // to MovedTo; runs here no more
	Lost     State = "lost"   // ended without a supervisor that saw it
)

// Live is a process that a [Record] names: the number and the start time, since
// a number alone is used again. The zero value is nobody.
type Live struct {
	PID   int    `json:"pid"`   // in the host's PID namespace
	Start uint64 `json:"start"` // clock ticks after boot
}

// Identify returns what names the process pid for good.
func Identify(pid int) (Live, error) {
	p, err := proc.Read(pid)
	if err != nil {
		return Live{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return Live{PID: pid, Start: p.Start}, nil
}

// Alive reports whether l still runs, and is no other process with its number. A
// zombie does not run.
func (l Live) Alive() bool {
	if l.PID <= 0 {
		return false
	}
	p, err := proc.Read(l.PID)
	return err == nil && p.Start == l.Start && p.State != 'Z' && p.State != 'X'
}

// Began returns when l began; the zero time if it does not run.
func (l Live) Began() time.Time {
	p, err := proc.Read(l.PID)
	var now unix.Timespec
	if err != nil || p.Start != l.Start || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Time{}
	}
	return time.Now().Add(-p.Age(time.Duration(now.Nano()))).UTC().Truncate(10 * time.Millisecond)
}

// AwaitEnd waits until l is not alive any more, for as long as ctx lives.
func (l Live) AwaitEnd(ctx context.Context) error {
	for l.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d goes on: %w", l.PID, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// Record is what a host knows of a workload that it started or received. It is
// kept in workloads/NAME/state.json of the state directory.
type Record struct {
	Name    string   `json:"name"`
	Kind    Kind     `json:"kind"`
	ID      string   `json:"id,omitempty"` // as in KIND:ID; "" in records of before
	Command []string `json:"command"`
	// Container is set for a container, and says of what runtime.
	Container  *migrate.Container `json:"container,omitempty"`
	Dir        string             `json:"dir,omitempty"`  // working directory it was started in
	Init       string             `json:"init,omitempty"` // path of the tiny init in front of it, if any
	Root       Live               `json:"root"`           // first process of the tree
	Supervisor Live               `json:"supervisor"`
	Cgroup     string             `json:"cgroup,omitempty"` // directory of its group, if it has one of its own
	Started    time.Time          `json:"started"`
	Arrived    time.Time          `json:"arrived,omitzero"`    // by migration; zero if it was started here
	Migration  migrate.ID         `json:"migration,omitempty"` // the last one it took part in
	State      State              `json:"state"`
	ExitCode   int                `json:"exit-code"`
	Signal     int                `json:"signal,omitempty"`   // that ended it; 0 if it exited
	Ended      time.Time          `json:"ended,omitzero"`     // exited, moved or found lost
	MovedTo    string             `json:"moved-to,omitempty"` // host
	// Failure says why it was killed, if that was because its memory could not
	// be filled in.
	Failure    *migrate.Failure `json:"failure,omitempty"`
	MonoOffset int64            `json:"mono-offset-ns"`      // of its time namespace; 0 without one
	BootOffset int64            `json:"boot-offset-ns"`      // likewise
	LogFiles   []string         `json:"log-files,omitempty"` // paths
	Network    *NetworkName     `json:"network,omitempty"`   // that goes with the workload
	LogLimit   int64            `json:"log-limit,omitempty"` // bytes a log file may grow to; 0 is no limit
}

// NetworkName is the name of a network namespace that was made for a workload.
type NetworkName struct {
	Path  string `json:"path"`
	Inode uint64 `json:"inode"` // of the namespace: tells another one by that name
}

// LiveRoot returns the PID of the workload's first process if it runs, and 0
// if it has ended, whatever State says.
func (r Record) LiveRoot() int {
	if r.Root.Alive() {
		return r.Root.PID
	}
	return 0
}

// RecordDir returns the directory of a workload in the state directory. What
// belongs to the workload, logs for one, may be kept in it too.
func RecordDir(stateDir, name string) string {
	return filepath.Join(stateDir, "workloads", name)
}

func recordFile(stateDir, name string) string {
	return filepath.Join(RecordDir(stateDir, name), "state.json")
}

// Save writes r, replacing what was there; when it returns nil the record
// survives a power cut. One writer at a time per name.
func Save(stateDir string, r Record) error {
	if err := ValidName(r.Name); err != nil {
		return fmt.Errorf("saving workload: %w", err)
	}
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("saving workload %s: %w", r.Name, err)
	}
	if err := makeDir(stateDir, r.Name); err != nil {
		return fmt.Errorf("saving workload %s: %w", r.Name, err)
	}
	if err := atomicfile.WriteFile(recordFile(stateDir, r.Name), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("saving workload %s: %w", r.Name, err)
	}
	return nil
}

// makeDir makes the directory of a record and flushes the names on the way to
// it, without which a flushed file can be lost with its directory.
func makeDir(stateDir, name string) error {
	dir := RecordDir(stateDir, name)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(atomicfile.SyncDir(filepath.Dir(dir)), atomicfile.SyncDir(stateDir))
}

// Load reads the record of a workload. If there is none the error matches
// fs.ErrNotExist.
func Load(stateDir, name string) (Record, error) {
	if err := ValidName(name); err != nil {
		return Record{}, fmt.Errorf("loading workload: %w", err)
	}
	b, err := os.ReadFile(recordFile(stateDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, fmt.Errorf("workload %s: %w on this host", name, fs.ErrNotExist)
	}
	if err != nil {
		return Record{}, fmt.Errorf("loading workload %s: %w", name, err)
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("loading workload %s: %w", name, err)
	}
	return r, nil
}

// List returns every record, by name. Records that cannot be read are left out
// and named in the error, so both results can be there.
func List(stateDir string) ([]Record, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, "workloads"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing workloads: %w", err)
	}
	var list []Record
	var problems []error
	for _, e := range entries {
		r, err := Load(stateDir, e.Name())
		switch {
		case err == nil:
			list = append(list, r)
		case !errors.Is(err, fs.ErrNotExist): // a directory made, its record not yet written
			problems = append(problems, err)
		}
	}
	return list, errors.Join(problems...)
}

// Remove removes the record of a workload with everything in its directory.
func Remove(stateDir, name string) error {
	if err := ValidName(name); err != nil {
		return fmt.Errorf("removing workload: %w", err)
	}
	if err := os.RemoveAll(RecordDir(stateDir, name)); err != nil {
		return fmt.Errorf("removing workload %s: %w", name, err)
	}
	return nil
}

// NameTaken reports whether a workload of that name is on this host: one that
// is starting, or whose process runs.
func NameTaken(stateDir, name string) bool {
	r, err := Load(stateDir, name)
	return err == nil && (r.LiveRoot() != 0 || r.State == Starting && r.Supervisor.Alive())
}

// Ref returns what names the workload on its host.
func (r Record) Ref() Ref {
	switch {
	case r.Kind == Process:
		return Ref{r.Kind, strings.TrimPrefix(r.Name, "process-")}
	case r.Kind.Container():
		return Ref{r.Kind, r.ID}
	}
	return Ref{r.Kind, r.Name}
}
