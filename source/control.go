package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"migrate"
)

// controlDir, below the run directory, has one socket for each live move.
const controlDir = "m"

// A command is what another terminal asks of a live move.
type command struct {
	Op string `json:"op"` // "cancel" or "status"
}

// A reply answers it.
type reply struct {
	Progress migrate.Progress `json:"progress"`
	Error    string           `json:"error,omitempty"`
}

// control is the socket of one live move.
type control struct {
	listener net.Listener
	done     sync.WaitGroup
}

// controlTimeout bounds one question and its answer.
const controlTimeout = 5 * time.Second

func (v *move) listen() (*control, error) {
	path := controlPath(v.cfg.RunDir, v.id)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	c := &control{listener: l}
	c.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.done.Go(func() { v.answer(conn) })
		}
	})
	return c, nil
}

func (v *move) answer(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(controlTimeout))
	var c command
	if err := json.NewDecoder(conn).Decode(&c); err != nil {
		return
	}
	r := reply{Progress: v.events.progress()}
	switch c.Op {
	case "status":
	case "cancel":
		r.Error = v.tryCancel()
	default:
		r.Error = fmt.Sprintf("unknown request %.40q", c.Op)
	}
	json.NewEncoder(conn).Encode(r) // the asker's trouble, if it fails
}

// tryCancel cancels the move unless it is too late.
func (v *move) tryCancel() string {
	v.gate.Lock()
	defer v.gate.Unlock()
	if v.committed {
		return "the commit point is passed: the workload goes on on the target"
	}
	v.cancel(Cancelled)
	return ""
}

func (c *control) close() {
	if c == nil {
		return
	}
	c.listener.Close()
	c.done.Wait()
}

func controlPath(runDir string, id migrate.ID) string {
	return filepath.Join(runDir, controlDir, string(id)+".sock")
}

// ErrNotLive means that no process on this host works on the migration.
var ErrNotLive = errors.New("no process on this host works on this migration")

// Ask asks the process on this host that works on migration id: op "status"
// returns where it stands, "cancel" makes it roll back. It returns ErrNotLive
// when there is no such process.
func Ask(runDir string, id migrate.ID, op string) (migrate.Progress, error) {
	conn, err := net.DialTimeout("unix", controlPath(runDir, id), controlTimeout)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return migrate.Progress{}, ErrNotLive
	}
	if err != nil {
		return migrate.Progress{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(controlTimeout))
	if err := json.NewEncoder(conn).Encode(command{op}); err != nil {
		return migrate.Progress{}, err
	}
	var r reply
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return migrate.Progress{}, err
	}
	if r.Error != "" {
		return r.Progress, errors.New(r.Error)
	}
	return r.Progress, nil
}
