package testhost

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// downTime is how long a set may take to die. Network namespaces are the slow
// part; they go one after the other in the kernel's own time.
const downTime = 10 * time.Second

// Down removes everything of the set: processes, namespaces, cgroups and
// files. It may be called on a set that is half made, half gone or not there.
func (s *Set) Down() error {
	if err := s.kill(); err != nil {
		return err
	}
	return s.removeDirs()
}

// kill kills until nothing is left to be killed, as what it meets may be
// starting or freezing processes meanwhile, and the cgroups are gone, which
// are in use for a moment longer.
func (s *Set) kill() error {
	deadline := time.Now().Add(downTime)
	for {
		inCgroups, err := s.killCgroups()
		if err != nil {
			return err
		}
		left := inCgroups + s.killOurs()
		if left == 0 {
			if err = s.removeCgroups(); err == nil {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("take down set %s: %d processes left, %w", s.name, left, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// killOurs kills what runs the set's copy of hosts: each host's PID 1, with
// which all in its PID namespace goes, the switch, and any "hosts exec".
func (s *Set) killOurs() (n int) {
	for _, pid := range processes() {
		if s.runsOurs(pid) && !errors.Is(syscall.Kill(pid, syscall.SIGKILL), syscall.ESRCH) {
			n++
		}
	}
	return n
}

// Down removes everything of the set of that name; see [Set.Down].
func Down(set string) error {
	o := Options{Set: set}.withDefaults()
	if err := o.validate(); err != nil {
		return err // the name becomes part of paths that are removed
	}
	return newSet(o).Down()
}
