package source

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"migrate"
	"migrate/internal/control"
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

// controlTimeout bounds one question and its answer.
const controlTimeout = 5 * time.Second

func (v *move) listen() error {
	var err error
	if v.control, err = control.Listen(v.ctx, controlPath(v.cfg.RunDir, v.id)); err != nil {
		return err
	}
	control.Serve(v.control, controlTimeout, v.answer)
	return nil
}

func (v *move) answer(c command) reply {
	r := reply{Progress: v.events.progress()}
	switch c.Op {
	case "status":
	case "cancel":
		r.Error = v.tryCancel()
	default:
		r.Error = fmt.Sprintf("unknown request %.40q", c.Op)
	}
	return r
}

// tryCancel cancels the move unless it is too late.
func (v *move) tryCancel() string {
	v.gate.Lock()
	defer v.gate.Unlock()
	if v.committed {
		return "the commit point is passed: the workload goes on on the target"
	}
	v.cancel(ErrCancelled)
	return ""
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
	r, err := control.Ask[reply](controlPath(runDir, id), controlTimeout, command{op})
	switch {
	case errors.Is(err, control.ErrNobody):
		return r.Progress, ErrNotLive
	case err != nil:
		return r.Progress, err
	case r.Error != "":
		return r.Progress, errors.New(r.Error)
	}
	return r.Progress, nil
}
