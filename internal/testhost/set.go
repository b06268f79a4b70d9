package testhost

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// base holds one directory for each set. It is on the machine's /run, which
// every host covers with its own.
const base = "/run/migrate-testhosts"

// DefaultSet is the set that "make hosts" makes.
const DefaultSet = "default"

// ErrRunning says that a set of that name is up already.
var ErrRunning = errors.New("is up already")

var wellNamed = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,14}$`)

// Options configures a set. The zero value is three hosts, unshaped, each with
// an agent.
type Options struct {
	Set      string            // name of the set; "" means [DefaultSet], or a name of its own in tests
	Names    []string          // of the hosts; nil means A, B, C
	Rate     string            // egress of each host in the words of tc(8), such as "1gbit"; "" means unshaped
	AgentEnv map[string]string // added to the agents' environment
	NoAgent  bool              // start no agents and build no migrate
}

func (o Options) withDefaults() Options {
	o.Set = cmp.Or(o.Set, DefaultSet)
	if o.Names == nil {
		o.Names = []string{"A", "B", "C"}
	}
	return o
}

// validate reports every problem of options that have their defaults.
func (o Options) validate() error {
	var errs []error
	if !wellNamed.MatchString(o.Set) {
		errs = append(errs, fmt.Errorf("set name %q: want up to 15 letters, digits and dashes", o.Set))
	}
	if len(o.Names) == 0 || len(o.Names) > 200 {
		errs = append(errs, fmt.Errorf("%d hosts: want 1 to 200", len(o.Names)))
	}
	seen := map[string]bool{}
	for _, n := range o.Names {
		if !wellNamed.MatchString(n) || strings.EqualFold(n, "switch") {
			errs = append(errs, fmt.Errorf("host name %q: want up to 15 letters, digits and dashes, not \"switch\"", n))
		}
		if seen[strings.ToLower(n)] {
			errs = append(errs, fmt.Errorf("host name %q: given twice", n))
		}
		seen[strings.ToLower(n)] = true
	}
	return errors.Join(errs...)
}

// Set is some hosts on one bridge. Its methods may be called from several
// goroutines, except that nothing may run beside [Set.Down].
type Set struct {
	name  string
	hosts []*Host
}

// Start makes a set. On failure nothing of it is left. It returns [ErrRunning]
// when a set of that name is up.
func Start(o Options) (*Set, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	if os.Getuid() != 0 {
		return nil, errors.New("isolated hosts need root: they are made of namespaces and mounts")
	}
	if _, err := Open(o.Set); err == nil {
		return nil, fmt.Errorf("set %s %w", o.Set, ErrRunning)
	}
	bin, err := build(!o.NoAgent)
	if err != nil {
		return nil, err
	}
	s := newSet(o)
	if err := s.Down(); err != nil { // what an Up that was killed halfway left
		return nil, err
	}
	if err := s.up(o, bin); err != nil {
		return nil, errors.Join(err, s.Down())
	}
	return s, nil
}

func newSet(o Options) *Set {
	s := &Set{name: o.Set}
	for i, n := range o.Names {
		s.hosts = append(s.hosts, &Host{set: s, Name: n, index: i + 1})
	}
	return s
}

func (s *Set) up(o Options, bin string) error {
	if err := s.makeDirs(bin); err != nil {
		return err
	}
	if err := s.issueCertificates(); err != nil {
		return err
	}
	if err := s.startInits(); err != nil {
		return err
	}
	if err := s.connect(o.Rate); err != nil {
		return err
	}
	// The file that makes the set one that [Open] finds. Agents are started
	// by "hosts exec", which must find it.
	if err := os.WriteFile(s.path("hosts"), []byte(strings.Join(o.Names, "\n")), 0o644); err != nil {
		return err
	}
	if o.NoAgent {
		return nil
	}
	return s.startAgents(o.AgentEnv)
}

// Open returns a set that is up. The error wraps [fs.ErrNotExist] when there is none.
func Open(name string) (*Set, error) {
	names, err := os.ReadFile(filepath.Join(base, name, "hosts"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("set %s is not up: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	s := newSet(Options{Set: name, Names: strings.Fields(string(names))})
	for _, h := range s.hosts {
		if h.InitPID() == 0 {
			return nil, fmt.Errorf("set %s: host %s has died (take the set down): %w", name, h.Name, fs.ErrNotExist)
		}
	}
	return s, nil
}

// Names returns the names of all sets on the machine, also of those half made.
func Names() []string {
	var names []string
	entries, _ := os.ReadDir(base) // no directory, no sets
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// Name returns the set's name.
func (s *Set) Name() string { return s.name }

// Hosts returns the hosts in the order of their addresses.
func (s *Set) Hosts() []*Host { return s.hosts }

// Lookup returns the host of that name, or an error that lists those there are.
func (s *Set) Lookup(name string) (*Host, error) {
	var names []string
	for _, h := range s.hosts {
		if strings.EqualFold(h.Name, name) {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return nil, fmt.Errorf("set %s has no host %q, only %s", s.name, name, strings.Join(names, ", "))
}

func (s *Set) path(elem ...string) string {
	return filepath.Join(append([]string{base, s.name}, elem...)...)
}

// locked runs f while no other process changes what the sets share. The lock
// is on a directory that is there anyway, so that nothing is left of it.
func locked(f func() error) error {
	dir, err := os.Open(filepath.Dir(base))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	return f()
}
