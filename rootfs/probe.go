package rootfs

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// probePrefix starts the name of a probe. Passes leave such a name in a root out.
const probePrefix = ".migrate-probe-"

// Probe is a file by which another host can tell whether it sees the same storage.
type Probe struct {
	Name   string `json:"name"`   // of the file
	Token  string `json:"token"`  // what it holds
	Inside bool   `json:"inside"` // it is in the tree, not beside it
}

// PlantProbe makes a probe file for the tree at path: beside it, or in it if the tree
// is where something is mounted. The caller calls remove when the other host has looked.
func PlantProbe(path string) (p Probe, remove func() error, err error) {
	_, flags, err := statAt(unix.AT_FDCWD, filepath.Clean(path))
	if err != nil {
		return Probe{}, nil, fmt.Errorf("looking at %s: %w", path, err)
	}
	p = Probe{Name: probePrefix + token(), Token: token(), Inside: flags&unix.STATX_ATTR_MOUNT_ROOT != 0}
	file := p.path(path)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Probe{}, nil, fmt.Errorf("looking for shared storage: %w", err)
	}
	_, err = f.WriteString(p.Token)
	if err := errors.Join(err, f.Close()); err != nil {
		return Probe{}, nil, errors.Join(fmt.Errorf("looking for shared storage: %w", err), os.Remove(file))
	}
	return p, func() error { return os.Remove(file) }, nil
}

// FindProbe reports whether the peer's probe is there for the tree at path, on this
// host: then it is the very same tree, which must be neither sent nor applied.
func FindProbe(path string, p Probe) (bool, error) {
	random, ok := strings.CutPrefix(p.Name, probePrefix)
	if b, err := hex.DecodeString(random); !ok || err != nil || len(b) != tokenLen {
		return false, fmt.Errorf("%w: probe named %.100q", ErrRefused, p.Name)
	}
	f, err := os.OpenFile(p.path(path), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for shared storage: %w", err)
	}
	defer f.Close()
	have := make([]byte, 2*tokenLen+1)
	n, _ := f.Read(have) // what cannot be read is not the probe
	return n == 2*tokenLen && string(have[:n]) == p.Token, nil
}

func (p *Probe) path(tree string) string {
	tree = filepath.Clean(tree)
	if p.Inside {
		return filepath.Join(tree, p.Name)
	}
	return filepath.Join(filepath.Dir(tree), p.Name)
}

const tokenLen = 16

func token() string {
	var b [tokenLen]byte
	rand.Read(b[:]) // never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}
