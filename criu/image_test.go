package criu

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"migrate"
)

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTimensGolden(t *testing.T) {
	c := migrate.ClockReading{Monotonic: 1234*time.Second + 5, Boottime: 2345*time.Second + 999_999_999}
	b, err := encodeTimens(c)
	if err != nil {
		t.Fatal(err)
	}
	want := "1943565433441143" + "12000000" + "0a0508d2091005" + "120908a91210ff93ebdc03"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("encodeTimens = %s, want %s", got, want)
	}
	if back, err := parseTimens(b); err != nil || back != c {
		t.Errorf("parseTimens = %+v, %v, want %+v", back, err, c)
	}
}

func TestReadWriteTimens(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := ReadTimens(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadTimens of nothing = %v, want %v", err, fs.ErrNotExist)
	}
	want := migrate.ClockReading{Monotonic: time.Nanosecond, Boottime: 100 * 365 * 24 * time.Hour}
	if err := WriteTimens(dir, "timens-17.img", want); err != nil {
		t.Fatal(err)
	}
	if name, got, err := ReadTimens(dir); name != "timens-17.img" || got != want || err != nil {
		t.Errorf("ReadTimens = %q, %+v, %v, want %+v", name, got, err, want)
	}
	if err := WriteTimens(dir, RootTimens, want); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadTimens(dir); err == nil {
		t.Error("ReadTimens of two images = nil, want an error")
	}
	for _, name := range []string{"", "timens-.img", "../timens-0.img", "timens-0.img/x", "timens-x.img"} {
		if err := WriteTimens(dir, name, want); err == nil {
			t.Errorf("WriteTimens(%q) = nil, want an error", name)
		}
	}
	if err := WriteTimens(dir, RootTimens, migrate.ClockReading{Monotonic: -1}); err == nil {
		t.Error("WriteTimens of a negative clock = nil, want an error")
	}
}

func TestPagemapGolden(t *testing.T) {
	p := Pagemap{PagesID: 1, Entries: []PagemapEntry{{0x400000, 2, PagePresent}, {0x500000, 300, PageParent}}}
	b, err := p.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "1943565425400856" + "02000000" + "0801" + "0b000000" + "0880808002" + "1002" + "2004" + "2802" +
		"0d000000" + "088080c002" + "10ac02" + "2001" + "28ac02"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("AppendTo = %s, want %s", got, want)
	}
	if back, err := ParsePagemap(b); err != nil || !reflect.DeepEqual(back, p) {
		t.Errorf("ParsePagemap = %+v, %v, want %+v", back, err, p)
	}
}

// TestParsePagemapVersions reads what either CRIU writes.
func TestParsePagemapVersions(t *testing.T) {
	const head = "19435654 25400856 02000000 0801 "
	want := Pagemap{PagesID: 1, Entries: []PagemapEntry{{0x1000, 3, PagePresent}}}
	for name, s := range map[string]string{
		"4.1": head + "07000000 088020 1003 2004",
		"4.2": head + "09000000 088020 1000 2004 2803",
	} {
		if got, err := ParsePagemap(fromHex(t, s)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: ParsePagemap = %+v, %v, want %+v", name, got, err, want)
		}
	}
	for name, s := range map[string]string{
		"empty":       "",
		"magic":       "19435654 25400857 02000000 0801",
		"no head":     "19435654 25400856",
		"long head":   "19435654 25400856 ff000000 0801",
		"no pages":    head + "07000000 088020 1000 2004",
		"bad address": head + "06000000 0801 1003 2004",
		"bad flags":   head + "07000000 088020 1003 2010",
		"text":        head + "03000000 0a0141",
		"cut":         head + "02000000 0880",
		"long entry":  head + "50000000" + strings.Repeat("0801", 40),
	} {
		if got, err := ParsePagemap(fromHex(t, s)); err == nil {
			t.Errorf("%s: ParsePagemap = %+v, want an error", name, got)
		}
	}
}

func TestPagemapFiles(t *testing.T) {
	dir := t.TempDir()
	for name, img := range map[string]PageImage{"pagemap-7.img": {TaskImage, 7}, "pagemap-shmem-9.img": {ShmemImage, 9}} {
		want := Pagemap{PagesID: 3, Entries: []PagemapEntry{{0x1000, 1, PagePresent}}}
		if err := WritePagemap(dir, img, want); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
		if got, err := ReadPagemap(dir, img); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ReadPagemap = %+v, %v, want %+v", got, err, want)
		}
	}
	if err := WritePagemap(dir, PageImage{TaskImage, 8}, Pagemap{Entries: []PagemapEntry{{0, 1 << 33, PagePresent}}}); err == nil {
		t.Error("WritePagemap of 2^33 pages in one entry = nil, want an error")
	}
	if got := PagesName(3); got != "pages-3.img" {
		t.Errorf("PagesName(3) = %q", got)
	}
}

func TestInventory(t *testing.T) {
	b := fromHex(t, "16313158 08000000 0802 40c0843d 5001")
	want := Inventory{ImageVersion: 2, DumpUptime: time.Second, TCPClose: true}
	if got, err := parseInventory(b); err != nil || got != want {
		t.Errorf("parseInventory = %+v, %v, want %+v", got, err, want)
	}
	for i := range b {
		if _, err := parseInventory(b[:i]); err == nil {
			t.Errorf("parseInventory of %d bytes = nil, want an error", i)
		}
	}
}

func TestReadBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, make([]byte, 11), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := readBounded(path, 11); len(b) != 11 || err != nil {
		t.Errorf("readBounded(11) = %d bytes, %v", len(b), err)
	}
	if _, err := readBounded(path, 10); err == nil {
		t.Error("readBounded(10) of 11 bytes = nil, want an error")
	}
}

func FuzzTimens(f *testing.F) {
	b, err := encodeTimens(migrate.ClockReading{Monotonic: 5e9, Boottime: 7e9 + 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseTimens(b)
		if err != nil {
			return
		}
		again, err := encodeTimens(c)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseTimens(again); err != nil || back != c {
			t.Errorf("round trip of %x = %+v, %v, want %+v", b, back, err, c)
		}
	})
}

func FuzzPagemap(f *testing.F) {
	b, err := Pagemap{PagesID: 9, Entries: []PagemapEntry{{0x1000, 5, PagePresent | PageLazy}}}.AppendTo(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePagemap(b)
		if err != nil {
			return
		}
		again, err := p.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParsePagemap(again); err != nil || !reflect.DeepEqual(back, p) {
			t.Errorf("round trip of %x = %+v, %v, want %+v", b, back, err, p)
		}
	})
}

func FuzzInventory(f *testing.F) {
	f.Add(fromHex(f, "16313158 08000000 0802 40c0843d 5001"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if inv, err := parseInventory(b); err == nil && inv.DumpUptime < 0 {
			t.Errorf("parseInventory(%x) = %+v", b, inv)
		}
	})
}

func FuzzCPUInfo(f *testing.F) {
	f.Add(fromHex(f, "19435654 13404061 00000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := parseCPUInfo(bytes.Clone(b)); err == nil {
			missingInstructions(e, e)
		}
	})
}
