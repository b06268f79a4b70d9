package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"migrate"
)

// Record is what a host remembers of one side of one migration. Fields are
// only ever added; a reader ignores those it does not know.
type Record struct {
	ID       migrate.ID    `json:"id"`
	Side     migrate.Side  `json:"side"`
	Phase    migrate.Phase `json:"phase"`
	Name     string        `json:"name"`     // of the workload, unique on the host
	Workload string        `json:"workload"` // KIND:ID as asked for

	Peer     string `json:"peer"`                // host:port to ask when in doubt
	PeerName string `json:"peer-name,omitempty"` // as its certificate says
	ReplyTo  string `json:"reply-to,omitempty"`  // host:port at which the peer can ask this side; empty if it cannot

	RootPID    int                   `json:"root-pid,omitempty"`   // in the host's PID namespace
	RootStart  uint64                `json:"root-start,omitempty"` // its start time, clock ticks since boot (proc_pid_stat(5) field 22): tells a reused PID
	Cgroup     string                `json:"cgroup,omitempty"`     // that is frozen on the source
	Container  *migrate.ContainerRef `json:"container,omitempty"`  // if it is one
	Overlay    string                `json:"overlay,omitempty"`    // that is a container's root and mounted on the source, for it alone
	Placement  json.RawMessage       `json:"placement,omitempty"`  // where the tree was before it got that cgroup
	CPULimit   json.RawMessage       `json:"cpu-limit,omitempty"`  // how to give it the processors back that it was slowed by
	ImagesDir  string                `json:"images-dir,omitempty"`
	Network    json.RawMessage       `json:"network,omitempty"` // of its own, that moves along: what tells how to unlock, release or remove it
	Made       []string              `json:"made,omitempty"`    // files and directories that were made for the workload on the target, in the order to remove them
	Places     []string              `json:"places,omitempty"`  // of file trees that are staged on the target; see rootfs.Place
	Hollow     string                `json:"hollow,omitempty"`  // a directory made there for a runtime to look at, which holds nothing of worth
	Scratch    string                `json:"scratch,omitempty"` // the work directory of an overlay, made there
	Leave      []string              `json:"leave,omitempty"`   // directories of the source to be removed after the commit, as the target has them
	StoreDir   string                `json:"store-dir,omitempty"`
	Supervisor string                `json:"supervisor,omitempty"` // socket of the workload's supervisor

	Started time.Time        `json:"started"`
	Updated time.Time        `json:"updated"`
	Status  migrate.Status   `json:"status"`
	Reason  *migrate.Failure `json:"reason,omitempty"`
	Report  *migrate.Report  `json:"report,omitempty"`
	Options migrate.Options  `json:"options"`
}

// DamagedError is a record's file that does not hold what was written there.
// Nothing is decided from such a file: an operator has to look.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("damaged journal record %s: %v", e.Path, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// trailer is the second line of a record's file.
type trailer struct {
	SHA256 string `json:"sha256"` // of the first line without its newline, hexadecimal
}

// encode returns the file's content: the record and the trailer, a line each.
func encode(r Record) ([]byte, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding journal record: %w", err)
	}
	return fmt.Appendf(line, "\n{\"sha256\":%q}\n", sum(line)), nil
}

// decode is the reverse of encode. name is the file's, without directory.
func decode(name string, b []byte) (Record, error) {
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	var t trailer
	if err := json.Unmarshal(rest, &t); err != nil {
		return Record{}, fmt.Errorf("reading checksum: %w", err)
	}
	if t.SHA256 != sum(line) {
		return Record{}, errors.New("checksum does not match")
	}
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, err
	}
	if err := r.validate(); err != nil {
		return Record{}, err
	}
	if want := recordName(r.ID, r.Side); name != want {
		return Record{}, fmt.Errorf("record of %s is in file %q", want, name)
	}
	return r, nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// validate checks what file names and recovery depend on.
func (r Record) validate() error {
	if _, err := migrate.ParseID(string(r.ID)); err != nil {
		return err
	}
	if r.Side != migrate.Source && r.Side != migrate.Target {
		return fmt.Errorf("unknown side %.20q", r.Side)
	}
	if Recovery(r.Side, r.Phase) == AskOperator {
		return fmt.Errorf("a %s has no phase %v", r.Side, r.Phase)
	}
	return nil
}

const (
	recordSuffix = ".json"
	lockSuffix   = ".lock"
)

func stem(id migrate.ID, side migrate.Side) string       { return string(id) + "." + string(side) }
func recordName(id migrate.ID, side migrate.Side) string { return stem(id, side) + recordSuffix }
func lockName(id migrate.ID, side migrate.Side) string   { return stem(id, side) + lockSuffix }

// splitName is the reverse of recordName; ok is false for other files.
func splitName(name string) (id migrate.ID, side migrate.Side, ok bool) {
	s, ok := strings.CutSuffix(name, recordSuffix)
	if !ok {
		return "", "", false
	}
	i, sd, _ := strings.Cut(s, ".")
	id, err := migrate.ParseID(i)
	side = migrate.Side(sd)
	return id, side, err == nil && (side == migrate.Source || side == migrate.Target)
}
