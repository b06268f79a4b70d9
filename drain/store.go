package drain

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/internal/atomicfile"
)

// Store keeps the records of drains in a directory, a file each.
type Store struct{ dir string }

// Open opens the store in dir and makes the directory if need be.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening records of drains: %w", err)
	}
	return &Store{dir}, nil
}

// ErrBusy says that a live process works on the drain.
var ErrBusy = errors.New("a live process works on the drain")

// Entry is a record that only this process changes, until it is closed or ends.
type Entry struct {
	store  *Store
	path   string
	lock   *os.File
	Record Record
}

// Begin writes a first record.
func (s *Store) Begin(r Record) (*Entry, error) {
	lock, err := s.lock(r.ID)
	if err != nil {
		return nil, err
	}
	e := &Entry{store: s, path: s.path(r.ID), lock: lock, Record: r}
	if _, err := os.Lstat(e.path); err == nil {
		e.Close()
		return nil, fmt.Errorf("drain %s: %w", r.ID, fs.ErrExist)
	}
	if err := e.Save(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// Take returns the entry of a drain to go on with it, [ErrBusy] while a live
// process does, and fs.ErrNotExist if there is none.
func (s *Store) Take(id migrate.ID) (*Entry, error) {
	if _, err := s.Get(id); err != nil {
		return nil, err
	}
	lock, err := s.lock(id)
	if err != nil {
		return nil, err
	}
	r, err := s.Get(id) // again: it may have gone on before we had the lock
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Entry{store: s, path: s.path(id), lock: lock, Record: r}, nil
}

func (s *Store) lock(id migrate.ID) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, string(id)+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrBusy
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("drain %s: %w", id, err)
	}
	return f, nil
}

// Live reports whether a process works on the drain.
func (s *Store) Live(id migrate.ID) bool {
	f, err := s.lock(id)
	if err != nil {
		return errors.Is(err, ErrBusy)
	}
	f.Close()
	return false
}

func (s *Store) path(id migrate.ID) string { return filepath.Join(s.dir, string(id)+".json") }

// Get returns a record as it is on disk.
func (s *Store) Get(id migrate.ID) (Record, error) {
	b, err := os.ReadFile(s.path(id))
	if err != nil {
		return Record{}, fmt.Errorf("record of drain %s: %w", id, err)
	}
	r, err := decode(b)
	if err == nil && r.ID != id {
		err = fmt.Errorf("it is of drain %.40s", r.ID)
	}
	if err != nil {
		return Record{}, fmt.Errorf("damaged record of a drain, %s: %w", s.path(id), err)
	}
	return r, nil
}

// List returns every record, the newest first. Those that cannot be read are in
// the error, joined; the list is good also then.
func (s *Store) List() ([]Record, error) {
	names, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var list []Record
	var errs []error
	for _, n := range names {
		id, err := migrate.ParseID(strings.TrimSuffix(filepath.Base(n), ".json"))
		if err != nil {
			continue // the temporary file of a write
		}
		r, err := s.Get(id)
		if err == nil {
			list = append(list, r)
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	slices.SortStableFunc(list, func(a, b Record) int { return b.Started.Compare(a.Started) })
	return list, errors.Join(errs...)
}

// returned marks in the record of a drain what an undrain has brought back.
func (s *Store) returned(undrain *Record) error {
	e, err := s.Take(undrain.Of)
	if err != nil {
		return err
	}
	defer e.Close()
	for _, back := range undrain.Items {
		for i := range e.Record.Items {
			if it := &e.Record.Items[i]; it.Ref == back.Ref && it.State == StateMoved && (back.State == StateMoved || back.State == StateEnded) {
				it.State = StateReturned
			}
		}
	}
	return e.Save()
}

// Prune removes records of drains that ended longer ago than keep.
func (s *Store) Prune(keep time.Duration) error {
	list, err := s.List()
	errs := []error{err}
	for _, r := range list {
		if r.Ended.IsZero() || time.Since(r.Ended) < keep {
			continue
		}
		lock, err := s.lock(r.ID)
		if err != nil {
			continue // somebody has it
		}
		errs = append(errs, os.Remove(s.path(r.ID)), os.Remove(lock.Name()))
		lock.Close()
	}
	return errors.Join(errs...)
}

// Save writes the record. When it returns nil the record survives a power cut.
func (e *Entry) Save() error {
	e.Record.Updated = time.Now()
	b, err := encode(e.Record)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(e.path, b, 0o600)
}

// Close lets go of the record.
func (e *Entry) Close() { e.lock.Close() }

// encode returns a file's content: the record, and a line with its checksum.
func encode(r Record) ([]byte, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("record of drain %s: %w", r.ID, err)
	}
	return fmt.Appendf(line, "\n{\"sha256\":%q}\n", sum(line)), nil
}

func decode(b []byte) (Record, error) {
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	var t struct{ SHA256 string }
	if err := json.Unmarshal(rest, &t); err != nil {
		return Record{}, fmt.Errorf("reading checksum: %w", err)
	}
	if t.SHA256 != sum(line) {
		return Record{}, errors.New("checksum does not match")
	}
	var r Record
	return r, json.Unmarshal(line, &r)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
