package main

import (
	"math"
	"testing"
)

func TestParseRate(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1500": 1500, "100MiB": 100 << 20, "100MiB/s": 100 << 20, "1gbit": 125e6, "2.5Gbit": 312500000, "10 MB": 1e7,
		"8bit": 1, "1kB": 1000,
		"": -1, "MiB": -1, "1M": -1, "1m": -1, "-1": -1, "1e3": -1, "1.2.3MiB": -1, "1bit": -1, "99999999TiB": -1, "1mib": -1, "NaN": -1,
	} {
		got, err := parseRate(s)
		if (err != nil) != (want < 0) || err == nil && int64(got) != want {
			t.Errorf("parseRate(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
}

func TestUnitText(t *testing.T) {
	for _, n := range []uint64{0, 1, 1000, 1024, 64 << 20, 3 << 30, 1<<40 + 1, math.MaxInt32} {
		if got, err := parseSize(unitText(n)); err != nil || got != n {
			t.Errorf("%d is written %q and read %d, %v", n, unitText(n), got, err)
		}
	}
}

func TestSizeFlagIsBounded(t *testing.T) {
	var z sizeFlag
	if err := z.Set("4GiB"); err == nil {
		t.Error("4 GiB fit into 32 bits")
	}
	if err := z.Set("64MiB"); err != nil || z != 64<<20 {
		t.Errorf("got %d, %v", z, err)
	}
}
