package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"migrate"
)

// Units of a size in bytes. Those of 1000 and of 1024 must be told apart, so a
// bare "M" is none.
var sizeUnits = map[string]float64{
	"": 1, "B": 1,
	"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// Units of bits, as tc(8) writes them; eight make a byte.
var bitUnits = map[string]float64{
	"bit": 1. / 8, "kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8, "tbit": 1e12 / 8,
}

// parseSize reads a number of bytes such as "64MiB".
func parseSize(s string) (uint64, error) {
	number, unit := splitUnit(s)
	factor, ok := sizeUnits[unit]
	if !ok {
		return 0, fmt.Errorf("unknown unit %.20q: want B, KiB, MiB, GiB, TiB, kB, MB, GB or TB", unit)
	}
	return scale(number, factor)
}

// parseRate reads bytes per second such as "100MiB", "100MiB/s" or "1gbit".
func parseRate(s string) (uint64, error) {
	number, unit := splitUnit(strings.TrimSuffix(s, "/s"))
	factor, ok := sizeUnits[unit]
	if !ok {
		factor, ok = bitUnits[strings.ToLower(unit)]
	}
	if !ok {
		return 0, fmt.Errorf("unknown unit %.20q: want bytes a second (KiB, MiB, GiB, kB, MB, GB) or bits (kbit, mbit, gbit)", unit)
	}
	return scale(number, factor)
}

func splitUnit(s string) (number, unit string) {
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

func scale(number string, factor float64) (uint64, error) {
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a number", number)
	}
	if v *= factor; v >= math.MaxInt64 {
		return 0, fmt.Errorf("too large")
	}
	if v > 0 && v < 1 {
		return 0, fmt.Errorf("less than a byte")
	}
	return uint64(v), nil
}

// rateFlag is a flag of bytes per second.
type rateFlag int64

// Set reads s.
func (r *rateFlag) Set(s string) error {
	v, err := parseRate(s)
	*r = rateFlag(v)
	return err
}

// String returns the rate.
func (r *rateFlag) String() string { return unitText(uint64(*r)) }

// Type names the flag's value in help texts.
func (*rateFlag) Type() string { return "rate" }

// sizeFlag is a flag of bytes below 4 GiB.
type sizeFlag uint32

// Set reads s.
func (z *sizeFlag) Set(s string) error {
	v, err := parseSize(s)
	if err == nil && v > math.MaxUint32 {
		err = fmt.Errorf("more than 4 GiB")
	}
	*z = sizeFlag(v)
	return err
}

// String returns the size.
func (z *sizeFlag) String() string { return unitText(uint64(*z)) }

// Type names the flag's value in help texts.
func (*sizeFlag) Type() string { return "size" }

// bytesFlag is a flag of bytes.
type bytesFlag int64

// Set reads s.
func (b *bytesFlag) Set(s string) error {
	v, err := parseSize(s)
	*b = bytesFlag(v)
	return err
}

// String returns the size.
func (b *bytesFlag) String() string { return unitText(uint64(*b)) }

// Type names the flag's value in help texts.
func (*bytesFlag) Type() string { return "size" }

// cacheFlag is migrate.Options.DeltaCache: bytes, "auto" for 0, "off" for less.
type cacheFlag int64

// Set reads s.
func (c *cacheFlag) Set(s string) error {
	switch s {
	case "auto":
		*c = 0
		return nil
	case "off":
		*c = -1
		return nil
	}
	v, err := parseSize(s)
	switch {
	case err != nil:
		return fmt.Errorf("want auto, off or a size: %w", err)
	case v == 0:
		return errors.New("a cache of no bytes is \"off\"")
	}
	*c = cacheFlag(v)
	return nil
}

// String returns the size.
func (c *cacheFlag) String() string {
	switch {
	case *c == 0:
		return "auto"
	case *c < 0:
		return "off"
	}
	return unitText(uint64(*c))
}

// Type names the flag's value in help texts.
func (*cacheFlag) Type() string { return "size" }

// throttleFlag is a flag of how a workload is slowed.
type throttleFlag migrate.Throttle

// Set reads s.
func (t *throttleFlag) Set(s string) error {
	v, err := migrate.ParseThrottle(s)
	*t = throttleFlag(v)
	return err
}

// String returns what Set reads.
func (t *throttleFlag) String() string { return migrate.Throttle(*t).String() }

// Type names the flag's value in help texts.
func (*throttleFlag) Type() string { return "initial,step,max" }

// unitText writes n so that parseSize reads the same number.
func unitText(n uint64) string {
	unit := ""
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return strconv.FormatUint(n, 10) + unit
}
