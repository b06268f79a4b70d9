package workload

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Kind is a way in which a workload came to run.
type Kind string

// The kinds.
const (
	Process Kind = "process" // any process tree on the host
	Capsule Kind = "capsule" // started by "migrate run"
	Runc    Kind = "runc"    // a container of runc
	Crun    Kind = "crun"    // a container of crun
)

// Kinds are all there are.
var Kinds = []Kind{Capsule, Crun, Process, Runc}

// Container reports whether the kind is that of an OCI container, and its name
// that of the runtime.
func (k Kind) Container() bool { return k == Runc || k == Crun }

// Ref names a workload on a host.
type Ref struct {
	Kind Kind
	ID   string // a PID in decimal, a capsule's name, or a container's
}

// String returns the form that [Parse] reads.
func (r Ref) String() string { return string(r.Kind) + ":" + r.ID }

// PID returns the number of a process, and 0 for anything else.
func (r Ref) PID() int {
	if r.Kind != Process {
		return 0
	}
	pid, _ := strconv.Atoi(r.ID)
	return pid
}

// Name returns the name that the workload has in a host's registry: the
// capsule's, or the kind and the ID. A container's that is no name, or too long for
// one, is told apart by a hash.
func (r Ref) Name() string {
	if r.Kind == Capsule {
		return r.ID
	}
	name := string(r.Kind) + "-" + r.ID
	if ValidName(name) == nil {
		return name
	}
	sum := sha256.Sum256([]byte(r.ID))
	short := strings.ReplaceAll(r.ID, "+", "-")
	return fmt.Sprintf("%s-%.24s-%x", r.Kind, short, sum[:8])
}

// Parse reads "process:PID", "capsule:NAME", "runc:ID" or "crun:ID".
func Parse(s string) (Ref, error) {
	kind, id, _ := strings.Cut(s, ":")
	r := Ref{Kind: Kind(kind), ID: id}
	var err error
	switch r.Kind {
	case Process:
		err = validPID(id)
	case Capsule:
		err = ValidName(id)
	case Runc, Crun:
		err = ValidContainer(id)
	default:
		err = errors.New("want process:PID, capsule:NAME, runc:ID or crun:ID")
	}
	if err != nil {
		return Ref{}, fmt.Errorf("workload %.80q: %w", s, err)
	}
	return r, nil
}

// ParseSource reads "[HOST/]KIND:ID". The host is "" if there is none.
func ParseSource(s string) (host string, r Ref, err error) {
	host, rest, found := strings.Cut(s, "/")
	if !found {
		host, rest = "", s
	} else if host == "" {
		return "", Ref{}, fmt.Errorf("workload %.80q: no host before the slash", s)
	}
	r, err = Parse(rest)
	return host, r, err
}

func validPID(id string) error {
	pid, err := strconv.Atoi(id)
	if err != nil || pid <= 0 || strconv.Itoa(pid) != id {
		return errors.New("want a process number")
	}
	return nil
}

// maxContainer is well above the 64 digits that engines use.
const maxContainer = 128

// ValidContainer reports what is wrong with a container's ID. It is a directory
// of its runtime, and may come from a peer.
func ValidContainer(id string) error {
	if id == "" || len(id) > maxContainer {
		return fmt.Errorf("a container's ID has 1 to %d characters", maxContainer)
	}
	for i, c := range []byte(id) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-+", rune(c))) {
			return fmt.Errorf("%.80q: a container's ID has letters, digits, '.', '_', '-' and '+', and begins with a letter or digit", id)
		}
	}
	return nil
}

// maxName keeps a name well inside of what a file or a cgroup may be called,
// with something added, and a socket's path inside of 108 bytes.
const maxName = 64

// ValidName reports what is wrong with a workload's name: it is used for
// directories, cgroups and sockets, and may come from a peer.
func ValidName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("a name has 1 to %d characters", maxName)
	}
	for i, c := range []byte(name) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return fmt.Errorf("%.80q: a name has letters, digits, '.', '_' and '-', and begins with a letter or digit", name)
		}
	}
	return nil
}
