package buildid

import (
	"encoding/binary"
	"encoding/hex"
	"os/exec"
	"strings"
	"testing"
)

func note(name string, kind uint32, value []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(name)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(value)))
	b = binary.LittleEndian.AppendUint32(b, kind)
	for _, part := range []string{name, string(value)} {
		b = append(b, part...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func TestFind(t *testing.T) {
	id := []byte{1, 2, 3, 4, 5}
	build, other, foreign := note("GNU\x00", 3, id), note("GNU\x00", 1, []byte("abi")), note("Go\x00", 3, []byte("x"))
	tests := map[string]struct {
		notes []byte
		want  string
	}{
		"first":   {build, "0102030405"},
		"last":    {append(append(other[:len(other):len(other)], foreign...), build...), "0102030405"},
		"none":    {other, ""},
		"nothing": {nil, ""},
		"cut":     {build[:len(build)-4], ""},
		"huge":    {binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, 0xffffffff), 0xffffffff_ffffffff), ""},
	}
	for name, tt := range tests {
		if got := hex.EncodeToString(find(tt.notes, binary.LittleEndian)); got != tt.want {
			t.Errorf("%s: find = %q, want %q", name, got, tt.want)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add(note("GNU\x00", 3, []byte{1}))
	f.Fuzz(func(t *testing.T, b []byte) { find(b, binary.LittleEndian) })
}

func TestOf(t *testing.T) {
	for _, path := range []string{"/no/such/file", "/etc/passwd", "/", "/dev/null"} {
		if got := Of(path); got != "" {
			t.Errorf("Of(%s) = %q, want none", path, got)
		}
	}
	got := Of("/bin/sh")
	if out, err := exec.Command("readelf", "-n", "/bin/sh").Output(); err == nil && !strings.Contains(string(out), "Build ID: "+got) || got == "" {
		t.Errorf("Of(/bin/sh) = %q, readelf says\n%s", got, out)
	}
}
