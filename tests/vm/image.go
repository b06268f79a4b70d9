package vm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Image is what [scripts/vm-image] made: a file system, and kernels.
type Image struct {
	Dir     string
	Kernels []Kernel
}

// Kernel is one that machines can boot.
type Kernel struct {
	Suite   string // release it is from
	Version string // such as 6.12.107+deb13-cloud-amd64
	dir     string
}

// Label is the part of the version that people say, such as 6.12.
func (k Kernel) Label() string {
	if parts := strings.SplitN(k.Version, ".", 3); len(parts) == 3 {
		return parts[0] + "." + parts[1]
	}
	return k.Version
}

// Disk returns the path of the file system.
func (im Image) Disk() string { return filepath.Join(im.Dir, "image.ext4") }

// Kernel finds a kernel by label, release or version.
func (im Image) Kernel(name string) (Kernel, error) {
	var have []string
	for _, k := range im.Kernels {
		if slices.Contains([]string{k.Suite, k.Version, k.Label()}, name) {
			return k, nil
		}
		have = append(have, k.Label())
	}
	return Kernel{}, fmt.Errorf("no kernel %q; there are %s", name, strings.Join(have, ", "))
}

// unused is how long an image is kept that nobody asks for.
const unused = 7 * 24 * time.Hour

// ReadyImage returns the image that d and the scripts of the source tree at
// root describe, and builds it first where there is none. Images are kept in
// VM_CACHE, or the user's cache directory, under a name made from what went
// into them. With fresh it is built anyway: the packages may have changed.
// Several processes may ask at the same time.
func ReadyImage(ctx context.Context, d Definition, root string, fresh bool, log io.Writer) (Image, error) {
	cache, err := cacheDir(root)
	if err != nil {
		return Image{}, err
	}
	lock, err := lockDir(cache)
	if err != nil {
		return Image{}, err
	}
	defer lock.Close()
	script := filepath.Join(root, "scripts", "vm-image")
	key, err := imageKey(d, script)
	if err != nil {
		return Image{}, err
	}
	dir := filepath.Join(cache, key)
	if _, err := os.Stat(dir); fresh || err != nil {
		if err := buildImage(ctx, d, script, dir, log); err != nil {
			return Image{}, err
		}
	}
	now := time.Now()
	return openImage(d, dir), errors.Join(os.Chtimes(dir, now, now), prune(cache, now.Add(-unused)))
}

func cacheDir(root string) (string, error) {
	user, err := os.UserCacheDir()
	dir := cmp.Or(os.Getenv("VM_CACHE"), filepath.Join(user, "migrate-vm"))
	if err != nil && os.Getenv("VM_CACHE") == "" {
		dir = filepath.Join(root, "build", "vm")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// lockDir waits for others that use dir. Closing the file unlocks it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// imageKey names what the image is made from.
func imageKey(d Definition, script string) (string, error) {
	s, err := os.ReadFile(script)
	if err != nil {
		return "", err
	}
	in, err := json.Marshal([]any{d.Suite, d.Packages, d.Kernels, os.Getenv("VM_MIRROR"), string(s)})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(in)
	return hex.EncodeToString(sum[:8]), nil
}

func buildImage(ctx context.Context, d Definition, script, dir string, log io.Writer) error {
	aside := dir + ".new"
	if err := os.RemoveAll(aside); err != nil { // of a build that was killed
		return err
	}
	cmd := exec.CommandContext(ctx, script, aside)
	cmd.Env = append(os.Environ(), "VM_SUITE="+d.Suite, "VM_PACKAGES="+strings.Join(d.Packages, " "), "VM_KERNELS="+strings.Join(d.Kernels, " "))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the machines' image: %w", errors.Join(err, os.RemoveAll(aside)))
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(aside, dir)
}

func openImage(d Definition, dir string) Image {
	im := Image{Dir: dir}
	for _, suite := range d.Kernels {
		k := Kernel{Suite: suite, dir: filepath.Join(dir, "kernels", suite)}
		b, _ := os.ReadFile(filepath.Join(k.dir, "version")) // the build ends with one or not at all
		k.Version = strings.TrimSpace(string(b))
		im.Kernels = append(im.Kernels, k)
	}
	return im
}

// prune removes the images that nobody has asked for since.
func prune(cache string, since time.Time) error {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && fi.ModTime().Before(since) {
			if err := os.RemoveAll(filepath.Join(cache, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
