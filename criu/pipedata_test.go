package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pipedata "github.com/checkpoint-restore/go-criu/v7/crit/images/pipe-data"
	"google.golang.org/protobuf/proto"
)

func withPipe(t testing.TB, b []byte, id uint32, size uint32, data string) []byte {
	t.Helper()
	msg, err := proto.Marshal(&pipedata.PipeDataEntry{PipeId: proto.Uint32(id), Bytes: proto.Uint32(uint32(len(data))), Size: proto.Uint32(size)})
	if err != nil {
		t.Fatal(err)
	}
	return append(appendMessage(b, msg), data...)
}

func TestReadPipes(t *testing.T) {
	dir := t.TempDir()
	if got, err := ReadPipes(dir, 7); len(got) != 0 || err != nil {
		t.Errorf("ReadPipes without an image = %v, %v", got, err)
	}
	long := strings.Repeat("x", 100<<10)
	b := withPipe(t, appendMagic(nil, pipesMagic), 1, 65536, "other")
	b = withPipe(t, b, 7, 65536, "hello")
	b = withPipe(t, b, 8, 1<<20, long)
	if err := os.WriteFile(filepath.Join(dir, pipesImage), b, 0o600); err != nil {
		t.Fatal(err)
	}
	const high = 5<<32 | 8 // an inode of more than 32 bits
	got, err := ReadPipes(dir, 7, high, 9)
	if err != nil || len(got) != 2 || string(got[7].Data) != "hello" || string(got[high].Data) != long || got[high].Size != 1<<20 {
		t.Errorf("ReadPipes = %.200v, %v", got, err)
	}
	if got, err := ReadPipes(dir); len(got) != 0 || err != nil {
		t.Errorf("ReadPipes of none = %v, %v", got, err)
	}
	for _, n := range []int{0, 4, 9, 20, len(b) - 1} {
		if _, err := readPipes(bytes.NewReader(b[:n]), []uint64{7, 8}); err == nil {
			t.Errorf("readPipes of %d bytes = nil, want an error", n)
		}
	}
}

func FuzzReadPipes(f *testing.F) {
	f.Add(withPipe(f, appendMagic(nil, pipesMagic), 7, 65536, "hello"))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, err := readPipes(bytes.NewReader(b), []uint64{7})
		if err == nil && len(found[7].Data) > len(b) {
			t.Errorf("readPipes(%x) = %v", b, found)
		}
	})
}
