package target

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"migrate"
	"migrate/internal/atomicfile"
	"migrate/journal"
	"migrate/transport"
	"migrate/workload/oci"
)

// validContainer checks what a peer says about a container, before any of it
// is a path on this host.
func validContainer(o transport.Offer) error {
	c := o.Workload.Container
	if c == nil {
		return nil
	}
	sum := sha256.Sum256(o.Config)
	if hex.EncodeToString(sum[:]) != c.ConfigDigest || len(o.Config) == 0 {
		return fmt.Errorf("%w: the container's config.json is not what its digest says", transport.ErrProtocol)
	}
	if err := oci.Valid(*c); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrProtocol, err)
	}
	return nil
}

// asOffered is a workload as it is frozen, with all that was checked as it was offered:
// what it is, and the paths of this host that belong to it. A peer cannot put others
// in their place once preflight is over.
func asOffered(offered, frozen migrate.Workload) migrate.Workload {
	frozen.Kind, frozen.Name, frozen.ID = offered.Kind, offered.Name, offered.ID
	frozen.Init, frozen.Container = offered.Init, offered.Container
	return frozen
}

// containerFindings says what is in the way of a container on this host.
func containerFindings(ctx context.Context, o transport.Offer, here migrate.Host) (blockers, warnings []migrate.Finding) {
	if o.Workload.Container == nil {
		return nil, nil
	}
	return oci.TargetFindings(ctx, *o.Workload.Container, o.Host, here)
}

// installBundle writes the container's config.json where it is on the source,
// unless it is there from an earlier stay. What is made for it is journaled
// before.
func (r *receiver) installBundle() error {
	dir := r.offer.Workload.Container.Bundle
	path := filepath.Join(dir, "config.json")
	if _, err := os.Lstat(path); err == nil {
		return nil // the same, says preflight
	}
	made := append([]string{path}, missing(dir)...)
	if err := r.entry.Update(func(j *journal.Record) { j.Made = append(made, j.Made...) }); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return atomicfile.WriteFile(path, r.offer.Config, 0o600)
}

// missing returns dir and those above it that are not there, deepest first.
func missing(dir string) []string {
	var list []string
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		list = append(list, dir)
	}
	return list
}

// removeMade removes what was made for a workload that did not come to run. A
// directory in which somebody has put something since stays.
func (r *receiver) removeMade() {
	for _, path := range r.entry.Record().Made {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.log.Warn("removing what was made for the workload", "migration", r.id, "cause", err)
		}
	}
}
