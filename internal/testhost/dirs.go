package testhost

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mountpoints must be on the machine's file system so that hosts can mount
// over them. Those that were missing are listed in made, to be removed with
// the last set.
var mountpoints = []string{"/var/lib/migrate", "/etc/migrate"}

var made = filepath.Join(base, ".made")

// makeDirs makes the set's directory with the binaries from bin in it.
func (s *Set) makeDirs(bin string) error {
	err := locked(func() error {
		if err := os.MkdirAll(s.path(), 0o755); err != nil {
			return err
		}
		return makeMountpoints()
	})
	if err != nil {
		return err
	}
	if err := copyDir(bin, s.path("bin")); err != nil {
		return fmt.Errorf("copy binaries: %w", err)
	}
	for _, h := range s.hosts {
		if err := os.MkdirAll(h.path("pki"), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(s.path("etc-hosts"), []byte(s.etcHosts()), 0o644)
}

func (s *Set) etcHosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
	for _, h := range s.hosts {
		fmt.Fprintf(&b, "%s %s", h.Address(), h.Name)
		if lower := strings.ToLower(h.Name); lower != h.Name {
			b.WriteString(" " + lower)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func makeMountpoints() error {
	var missing []string
	for _, dir := range mountpoints {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, dir)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	// Recorded before they are made: a record too many is harmless.
	if err := os.WriteFile(made, []byte(strings.Join(missing, "\n")), 0o644); err != nil {
		return err
	}
	for _, dir := range missing {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// removeDirs removes the set's directory and, after the last set, all else
// that sets leave on the machine's file system.
//
// A mount point must not go while another set lives: removing a directory
// takes away what other mount namespaces have mounted on it (Linux 3.15).
func (s *Set) removeDirs() error {
	return locked(func() error {
		if err := os.RemoveAll(s.path()); err != nil {
			return err
		}
		if len(Names()) > 0 {
			return nil
		}
		list, err := os.ReadFile(made)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var errs []error
		for dir := range strings.FieldsSeq(string(list)) {
			errs = append(errs, removeIfEmpty(dir))
		}
		return errors.Join(append(errs, os.RemoveAll(base))...)
	})
}

func removeIfEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
		return nil // someone has begun to use it
	}
	return os.Remove(dir)
}

func copyDir(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.Type().IsRegular() })
	for _, e := range entries {
		if err := copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
