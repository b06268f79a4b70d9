package supervisor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"migrate"
	"migrate/clock"
	"migrate/criu"
)

// clocks are what the images held before anybody edited them.
type clocks struct {
	Name   string               `json:"name"` // of the image file; "" if there is none
	Dumped migrate.ClockReading `json:"dumped"`
}

// clocksFile keeps them beside the images, for a second restore: the first
// one writes over the image.
const clocksFile = "dumped-clocks.json"

// dumpedClocks reads the clocks as they were dumped.
func dumpedClocks(dir string, spec ClockSpec) (c clocks, err error) {
	path := filepath.Join(dir, clocksFile)
	b, err := os.ReadFile(path)
	if err == nil {
		return c, json.Unmarshal(b, &c)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	c.Name, c.Dumped, err = criu.ReadTimens(dir)
	if errors.Is(err, fs.ErrNotExist) && !spec.HasTimens {
		c.Name, err = "", nil
	}
	if err != nil {
		return c, err
	}
	if b, err = json.Marshal(c); err != nil {
		return c, err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return c, err
	}
	return c, os.Rename(path+".new", path)
}

// write sets the clocks in the image to what they should show from this very
// moment on.
func (c clocks) write(spec RestoreSpec, supported bool) (migrate.Clock, error) {
	tree := migrate.ClockReading{Monotonic: time.Duration(spec.Workload.MonoOffset), Boottime: time.Duration(spec.Workload.BootOffset)}
	r := clock.Restore{
		Policy: spec.Options.Clock, Image: c.Dumped, Tree: tree, Between: spec.Clock.Difference,
		Namespace: c.Name != "" && supported,
	}
	if c.Name == "" {
		r.Image.Monotonic = spec.Clock.FrozenAt.Monotonic + tree.Monotonic
		r.Image.Boottime = spec.Clock.FrozenAt.Boottime + tree.Boottime
	}
	r.Target = clock.Now()
	w, err := clock.Plan(r)
	switch {
	case err != nil:
		return w.Report, err
	case w.Report.Namespace:
		return w.Report, criu.WriteTimens(spec.ImagesDir, c.Name, w.Image)
	case c.Name != "":
		return w.Report, leaveOut(filepath.Join(spec.ImagesDir, c.Name))
	}
	return w.Report, nil
}

// leaveOut removes the image, so that CRIU makes no namespace after all, should
// it find that it can (prepare_timens in timens.c).
func leaveOut(image string) error {
	if err := os.Remove(image); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
