package lazymap

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/cespare/xxhash/v2"
)

func sample() Map {
	return Map{
		Files: []string{"base/pages-1.img", "side-1"},
		Rows: []Row{
			{Image: 7, Address: 0x10000, Pages: 4, File: 0, Slot: 100},
			{Image: 7, Address: 0x14000, Pages: 1, File: 1, Slot: 3},
			{Image: 7, Address: 0x20000, Pages: 2, File: 0, Slot: 9},
			{Image: 8, Address: 0x10000, Pages: 1, File: 1, Slot: 0},
		},
	}
}

func TestFind(t *testing.T) {
	tests := []struct {
		image, addr uint64
		file        int
		slot, pages uint64
		ok          bool
	}{
		{7, 0x10000, 0, 100, 4, true}, {7, 0x12fff, 0, 102, 2, true}, {7, 0x13000, 0, 103, 1, true},
		{7, 0x14000, 1, 3, 1, true}, {7, 0x15000, 0, 0, 0, false}, {7, 0x21000, 0, 10, 1, true},
		{7, 0x22000, 0, 0, 0, false}, {7, 0, 0, 0, 0, false}, {8, 0x10000, 1, 0, 1, true},
		{8, 0x14000, 0, 0, 0, false}, {6, 0x10000, 0, 0, 0, false}, {9, 0x10000, 0, 0, 0, false},
	}
	for _, tt := range tests {
		file, slot, pages, ok := sample().Find(tt.image, tt.addr)
		if file != tt.file || slot != tt.slot || pages != tt.pages || ok != tt.ok {
			t.Errorf("Find(%d, %#x) = %d, %d, %d, %v; want %d, %d, %d, %v",
				tt.image, tt.addr, file, slot, pages, ok, tt.file, tt.slot, tt.pages, tt.ok)
		}
	}
}

func TestWriteThenRead(t *testing.T) {
	for _, m := range []Map{sample(), {Files: []string{}, Rows: []Row{}}} {
		path := filepath.Join(t.TempDir(), "lazy.map")
		if err := Write(path, m); err != nil {
			t.Fatal(err)
		}
		got, err := Read(path)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("Read() = %+v, %v; want %+v", got, err, m)
		}
		if err := Write(path, m); !errors.Is(err, os.ErrExist) {
			t.Errorf("the second Write() = %v, want ErrExist", err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	tests := map[string]func(*Map){
		"overlap":         func(m *Map) { m.Rows[0].Pages = 5 },
		"descending":      func(m *Map) { m.Rows[3].Image = 6 },
		"no pages":        func(m *Map) { m.Rows[2].Pages = 0 },
		"unaligned":       func(m *Map) { m.Rows[2].Address++ },
		"unknown file":    func(m *Map) { m.Rows[2].File = 2 },
		"file below 0":    func(m *Map) { m.Rows[2].File = -1 },
		"address wraps":   func(m *Map) { m.Rows[3].Address = ^uint64(0xfff) },
		"slot wraps":      func(m *Map) { m.Rows[3].Slot = 1 << 52 },
		"name leads away": func(m *Map) { m.Files[0] = "../x" },
		"absolute name":   func(m *Map) { m.Files[0] = "/x" },
		"no name":         func(m *Map) { m.Files[0] = "" },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			m := sample()
			spoil(&m)
			path := filepath.Join(t.TempDir(), "lazy.map")
			if err := Write(path, m); err == nil {
				t.Error("Write() = nil, want an error")
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("it left a file")
			}
			if _, err := Parse(m.encode()); !errors.Is(err, ErrDamaged) {
				t.Errorf("Parse() = %v, want ErrDamaged", err)
			}
		})
	}
}

// TestEveryByteCounts flips each byte and cuts the file at each length.
func TestEveryByteCounts(t *testing.T) {
	b := sample().encode()
	for i := range b {
		flipped := append([]byte{}, b...)
		flipped[i] ^= 0x40
		if _, err := Parse(flipped); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d flipped: Parse() = %v, want ErrDamaged", i, err)
		}
		if _, err := Parse(b[:i]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut at %d: Parse() = %v, want ErrDamaged", i, err)
		}
	}
}

// FuzzParse gives the parser a right checksum for whatever comes before it.
func FuzzParse(f *testing.F) {
	b := sample().encode()
	f.Add(b[:len(b)-sumLen])
	f.Add([]byte(magic + "\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Parse(binary.LittleEndian.AppendUint64(append([]byte{}, body...), xxhash.Sum64(body)))
		if err != nil {
			return
		}
		for _, r := range m.Rows {
			file, slot, pages, ok := m.Find(r.Image, r.Address)
			if file != r.File || slot != r.Slot || pages != r.Pages || !ok {
				t.Errorf("Find(%d, %#x) = %d, %d, %d, %v: want row %+v", r.Image, r.Address, file, slot, pages, ok, r)
			}
		}
	})
}
