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

func TestCacheFlag(t *testing.T) {
	for text, want := range map[string]cacheFlag{"auto": 0, "off": -1, "64MiB": 64 << 20, "1GiB": 1 << 30, "1500": 1500} {
		var c cacheFlag
		if err := c.Set(text); err != nil || c != want || c.String() != text {
			t.Errorf("%q: %d, %v, written %q", text, c, err, c.String())
		}
	}
	for _, text := range []string{"", "0", "-1", "none", "1M"} {
		if err := new(cacheFlag).Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestThrottleFlag(t *testing.T) {
	for text, want := range map[string]string{"on": "20,10,95", "off": "off", "5,1,50": "5,1,50"} {
		var f throttleFlag
		if err := f.Set(text); err != nil || f.String() != want {
			t.Errorf("%q: %v, %v", text, f.String(), err)
		}
	}
	for _, text := range []string{"", "20", "20,10", "0,0,0", "20,10,100", "a,b,c", "1,2,3,4"} {
		if err := new(throttleFlag).Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
