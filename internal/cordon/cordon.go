// Package cordon keeps, in a host's state directory, whether the host refuses
// to receive workloads, and which drain claims it. The agent and the commands
// of the host share it; it survives both.
package cordon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/internal/atomicfile"
)

// Wish is what somebody wants of a host.
type Wish struct {
	Off    bool          // receive workloads again
	By     string        // who wants it
	Reason string        // in their words
	Drain  migrate.ID    // claims the host for a drain; "" does not
	TTL    time.Duration // of the claim; 0 gives it up
}

// Busy is a wish against the claim of a drain that lives.
type Busy struct{ Cordon migrate.Cordon }

// Error names the drain.
func (b *Busy) Error() string {
	return fmt.Sprintf("the host is being drained already (drain %s, from %s)", b.Cordon.Drain, b.Cordon.By)
}

// Claimed tells it from other errors.
func (b *Busy) Claimed() bool { return true }

// Failure says what to do about it.
func (b *Busy) Failure() migrate.Failure {
	return migrate.Failure{
		What: b.Error(),
		Advice: fmt.Sprintf("wait for it, or stop it; one whose command has died lets go of the host at %s, and \"migrate drain --resume %s\" goes on with it at once",
			b.Cordon.Until.Local().Format(time.TimeOnly), b.Cordon.Drain),
	}
}

// Apply returns what holds after a wish; nil is no cordon.
func Apply(c *migrate.Cordon, w Wish, now time.Time) (*migrate.Cordon, error) {
	if c.Claimed(w.Drain, now) {
		return c, &Busy{*c}
	}
	if w.Off {
		return nil, nil
	}
	out := migrate.Cordon{Since: now}
	if c != nil {
		out = *c
	}
	out.By, out.Reason, out.Until = w.By, w.Reason, time.Time{}
	if w.Drain != "" {
		out.Drain = w.Drain
		out.Until = now.Add(w.TTL)
	}
	return &out, nil
}

func file(stateDir string) string { return filepath.Join(stateDir, "cordon.json") }

// Load returns the host's cordon, nil without one.
func Load(stateDir string) (*migrate.Cordon, error) {
	b, err := os.ReadFile(file(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading cordon: %w", err)
	}
	var c migrate.Cordon
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("reading cordon: %s: %w", file(stateDir), err)
	}
	return &c, nil
}

// Set carries out a wish, and returns what holds then. It survives a power cut.
func Set(stateDir string, w Wish) (*migrate.Cordon, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(stateDir, "cordon.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking cordon: %w", err)
	}
	c, err := Load(stateDir)
	if err != nil {
		return nil, err
	}
	c, err = Apply(c, w, time.Now())
	if err != nil {
		return c, err
	}
	return c, save(stateDir, c)
}

func save(stateDir string, c *migrate.Cordon) error {
	if c == nil {
		err := os.Remove(file(stateDir))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, atomicfile.SyncDir(stateDir))
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(file(stateDir), append(b, '\n'), 0o600)
}

// Code is that of [Finding].
const Code = "cordoned"

// Finding is what a host that is cordoned answers in preflight.
func Finding(host string, c migrate.Cordon) migrate.Finding {
	what := fmt.Sprintf("%s is cordoned since %s: it receives no workloads", host, c.Since.Local().Format(time.DateTime))
	if c.Reason != "" {
		what += " (" + c.Reason + ")"
	}
	return migrate.Finding{Code: Code, What: what, Advice: fmt.Sprintf("choose another target, or end it with \"migrate uncordon %s\"", host)}
}
