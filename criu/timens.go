package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"
	"google.golang.org/protobuf/proto"

	"migrate"
)

// RootTimens is the name of the clock image of a tree that lived in its host's
// own time namespace. Where the kernel has no time namespaces, a dump leaves
// it out; a restore without it keeps the host's clocks.
const RootTimens = "timens-0.img"

// maxTimens bounds a clock image: two pairs of numbers.
const maxTimens = 256

var timensName = regexp.MustCompile(`^timens-[0-9]{1,10}\.img$`)

// ReadTimens reads the clock image of a dump: its file name, which is not the
// same in every dump, and the tree's clocks at the end of the dump. Without
// one the error is [fs.ErrNotExist].
func ReadTimens(dir string) (name string, clocks migrate.ClockReading, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "timens-*.img"))
	if err != nil {
		return "", clocks, err
	}
	if len(paths) == 0 {
		return "", clocks, fmt.Errorf("clock image in %s: %w", dir, fs.ErrNotExist)
	}
	if len(paths) > 1 {
		return "", clocks, fmt.Errorf("%d clock images in %s, want one", len(paths), dir)
	}
	b, err := readBounded(paths[0], maxTimens)
	if err != nil {
		return "", clocks, fmt.Errorf("clock image: %w", err)
	}
	clocks, err = parseTimens(b)
	return filepath.Base(paths[0]), clocks, err
}

// WriteTimens writes the clock image name into dir, in place of one that is
// there. The restored tree's clocks begin at clocks: CRIU reads the image after
// the [PreRestore] hook.
func WriteTimens(dir, name string, clocks migrate.ClockReading) error {
	if !timensName.MatchString(name) {
		return fmt.Errorf("clock image %.40q: not a name for one", name)
	}
	b, err := encodeTimens(clocks)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		return fmt.Errorf("clock image: %w", err)
	}
	return nil
}

func encodeTimens(c migrate.ClockReading) ([]byte, error) {
	if c.Monotonic < 0 || c.Boottime < 0 {
		return nil, errors.New("clock image: a clock before zero")
	}
	msg, err := proto.MarshalOptions{Deterministic: true}.Marshal(&timens.TimensEntry{
		Monotonic: timespec(c.Monotonic), Boottime: timespec(c.Boottime),
	})
	if err != nil {
		return nil, fmt.Errorf("clock image: %w", err)
	}
	return appendMessage(appendMagic(nil, timensMagic), msg), nil
}

func parseTimens(b []byte) (c migrate.ClockReading, err error) {
	defer func() {
		if err != nil {
			c, err = migrate.ClockReading{}, fmt.Errorf("clock image: %w", err)
		}
	}()
	body, err := openImage(b, timensMagic)
	if err != nil {
		return c, err
	}
	msg, err := onlyMessage(body)
	if err != nil {
		return c, err
	}
	var e timens.TimensEntry
	if err := proto.Unmarshal(msg, &e); err != nil {
		return c, err
	}
	if c.Monotonic, err = duration(e.GetMonotonic()); err != nil {
		return c, err
	}
	c.Boottime, err = duration(e.GetBoottime())
	return c, err
}

func timespec(d time.Duration) *timens.Timespec {
	return &timens.Timespec{TvSec: proto.Uint64(uint64(d / time.Second)), TvNsec: proto.Uint64(uint64(d % time.Second))}
}

func duration(t *timens.Timespec) (time.Duration, error) {
	const maxSeconds = math.MaxInt64/uint64(time.Second) - 1
	if t.GetTvSec() > maxSeconds || t.GetTvNsec() >= uint64(time.Second) {
		return 0, fmt.Errorf("time %d s %d ns is out of range", t.GetTvSec(), t.GetTvNsec())
	}
	return time.Duration(t.GetTvSec())*time.Second + time.Duration(t.GetTvNsec()), nil
}
