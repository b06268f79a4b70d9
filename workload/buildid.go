package workload

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"io"
)

const (
	noteBuildID = 3       // NT_GNU_BUILD_ID
	maxNotes    = 1 << 20 // far above any real note segment
)

// buildID returns the build ID of an ELF file in hexadecimal, or "" if it has
// none or is no such file. CRIU compares it on restore (files-reg.c).
func buildID(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > maxNotes {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			continue
		}
		if id := findBuildID(notes, f.ByteOrder); id != nil {
			return hex.EncodeToString(id)
		}
	}
	return ""
}

// findBuildID walks notes: three words (length of the name, length of the
// value, type), then name and value, each padded to four bytes.
func findBuildID(b []byte, order binary.ByteOrder) []byte {
	for len(b) >= 12 {
		name, value, kind := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])), order.Uint32(b[8:])
		b = b[12:]
		at := (name + 3) &^ 3
		end := at + value
		if end > uint64(len(b)) {
			return nil
		}
		if kind == noteBuildID && bytes.Equal(b[:name], []byte("GNU\x00")) {
			return b[at:end]
		}
		b = b[min(uint64(len(b)), (end+3)&^3):]
	}
	return nil
}
