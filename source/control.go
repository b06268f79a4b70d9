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
	Op       string   `json:"op"` // "cancel", "status" or "set"
	Settings Settings `json:"settings,omitzero"`
}

// A reply answers it.
type reply struct {
	Progress migrate.Progress `json:"progress"`
	Options  migrate.Options  `json:"options"` // as they are now
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
	r := reply{Progress: v.events.progress(), Options: v.settings.now()}
	switch c.Op {
	case "status":
	case "cancel":
		r.Error = v.tryCancel()
	case "set":
		r.Options, r.Error = v.trySet(c.Settings, r.Progress.Phase)
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

// trySet changes the settings of the move unless it is too late for them.
func (v *move) trySet(s Settings, phase migrate.Phase) (migrate.Options, string) {
	if phase >= migrate.Freeze && s.early() {
		return v.settings.now(), "the workload is frozen already: only the bandwidth can be changed now"
	}
	o, err := v.settings.change(s)
	if err != nil {
		return o, err.Error()
	}
	v.log.Info("settings changed", "bandwidth", o.Bandwidth, "downtime-limit", o.DowntimeLimit, "max-rounds", o.MaxRounds,
		"timeout-action", o.TimeoutAction, "auto-converge", o.AutoConverge)
	return o, ""
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
	r, err := ask(runDir, id, command{Op: op})
	return r.Progress, err
}

// Change changes settings of a migration under way, whoever drives it: all that
// s asks for, or none. It returns the options as they are now, and ErrNotLive
// when no process on this host works on the migration.
func Change(runDir string, id migrate.ID, s Settings) (migrate.Options, error) {
	r, err := ask(runDir, id, command{Op: "set", Settings: s})
	return r.Options, err
}

func ask(runDir string, id migrate.ID, c command) (reply, error) {
	r, err := control.Ask[reply](controlPath(runDir, id), controlTimeout, c)
	switch {
	case errors.Is(err, control.ErrNobody):
		return r, ErrNotLive
	case err != nil:
		return r, err
	case r.Error != "":
		return r, errors.New(r.Error)
	}
	return r, nil
}
