// Package audit keeps a record of who asked a host for what, in the host's
// state directory: one JSON object a line, the oldest first.
package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
)

// Entry is one request.
type Entry struct {
	Time     time.Time  `json:"time"`
	Who      string     `json:"who"`                // the name in a peer's certificate, or "local" and the user's number
	What     string     `json:"what"`               // such as "receive", "move", "cordon"
	Workload string     `json:"workload,omitempty"` // KIND:ID
	ID       migrate.ID `json:"id,omitempty"`       // of the migration or the drain
	To       string     `json:"to,omitempty"`       // the other host, where there is one
	Granted  bool       `json:"granted"`            // it was begun; how it ended, the journal says
	Why      string     `json:"why,omitempty"`      // it was not
}

// maxSize is when the file is put aside, in place of the one put aside before.
const maxSize = 8 << 20

// Log is a host's record. It may be used concurrently, by several processes.
type Log struct{ path string }

// Open returns the record in a state directory.
func Open(stateDir string) *Log { return &Log{filepath.Join(stateDir, "audit.log")} }

// Add adds a request. It is flushed: when Add returns nil the entry survives a
// power cut.
func (l *Log) Add(e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := l.open()
	if err != nil {
		return fmt.Errorf("audit record: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("audit record: %w", err)
	}
	return f.Sync()
}

// open opens the file, locked, once one that is full has been put aside.
func (l *Log) open() (*os.File, error) {
	for {
		f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		fi, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		now, err := os.Stat(l.path)
		if err == nil && os.SameFile(fi, now) && fi.Size() < maxSize {
			return f, nil
		}
		if err == nil && os.SameFile(fi, now) {
			err = os.Rename(l.path, l.path+".1")
		}
		if f.Close(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// List returns all requests, the oldest first. Lines that are none are left out
// and counted.
func (l *Log) List() (list []Entry, damaged int, err error) {
	for _, path := range []string{l.path + ".1", l.path} {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			var e Entry
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				damaged++
				continue
			}
			list = append(list, e)
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, 0, err
		}
	}
	return list, damaged, nil
}
