package vm

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestCPIO compares with what "cpio -o -H newc" writes, but for numbers that
// do not matter.
func TestCPIO(t *testing.T) {
	var b bytes.Buffer
	c := cpio{w: &b}
	c.add("dev", modeDir|0o755, nil)
	c.add("init", modeFile|0o755, []byte("hello"))
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	header := func(ino, mode, size, name string) string {
		return "070701" + ino + mode + "0000000000000000" + "00000001" + "00000000" + size + strings.Repeat("0", 32) + name + "00000000"
	}
	want := header("00000001", "000041ED", "00000000", "00000004") + "dev\x00\x00\x00" +
		header("00000002", "000081ED", "00000005", "00000005") + "init\x00\x00" + "hello\x00\x00\x00" +
		header("00000003", "00000000", "00000000", "0000000B") + "TRAILER!!!\x00\x00\x00\x00"
	if b.String() != want {
		t.Errorf("got\n%q, want\n%q", b.String(), want)
	}
	if b.Len()%4 != 0 {
		t.Errorf("%d bytes", b.Len())
	}
}

func TestCPIOOfAMissingFile(t *testing.T) {
	c := cpio{w: &bytes.Buffer{}}
	c.addFile("init", 0o755, t.TempDir()+"/none")
	if err := c.close(); err == nil || errors.Unwrap(err) == nil {
		t.Errorf("got %v", err)
	}
}
