package source

import (
	"bytes"
	"strings"
	"testing"

	"migrate/criu"
	"migrate/predump"
)

func TestFirstExecutable(t *testing.T) {
	const maps = "00400000-0041f000 r--p 00000000 fe:00 1 /usr/bin/python3.11\n0041f000-006d2000 r-xp 0001f000 fe:00 1 /usr/bin/python3.11\n7fff00000000-7fff00001000 r-xp 00000000 00:00 0 [vdso]\n"
	if start, ok := firstExecutable(strings.NewReader(maps)); start != 0x41f000 || !ok {
		t.Errorf("%#x, %v", start, ok)
	}
	if start, ok := firstExecutable(strings.NewReader("")); ok {
		t.Errorf("of nothing: %#x", start)
	}
}

func TestCodePageInstead(t *testing.T) {
	task := predump.Image{Type: uint8(criu.TaskImage), ID: 7}
	saved := codePages{7: {0x41f000, bytes.Repeat([]byte{1}, pageSize)}}
	read := saved.instead(func(_ predump.Image, address uint64, buf []byte) error {
		clear(buf)
		return nil
	})
	for _, tt := range []struct {
		im            predump.Image
		address, size uint64
		at            int // where the saved page is in what was read; -1 if it is not
	}{
		{task, 0x41e000, 3, pageSize},
		{task, 0x41f000, 1, 0},
		{task, 0x420000, 2, -1},
		{task, 0x41d000, 2, -1},
		{predump.Image{Type: task.Type, ID: 8}, 0x41f000, 1, -1},
		{predump.Image{Type: task.Type + 1, ID: 7}, 0x41f000, 1, -1},
	} {
		buf := make([]byte, tt.size*pageSize)
		if err := read(tt.im, tt.address, buf); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, len(buf))
		if tt.at >= 0 {
			copy(want[tt.at:], saved[7].content)
		}
		if !bytes.Equal(buf, want) {
			t.Errorf("%d pages of %v at %#x are wrong", tt.size, tt.im, tt.address)
		}
	}
}
