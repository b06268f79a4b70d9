// Package buildid reads the identity that a linker gave to an ELF file.
package buildid

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"syscall"
)

const (
	noteBuildID = 3       // NT_GNU_BUILD_ID
	maxNotes    = 1 << 20 // far above any real note segment
)

// Of returns the build ID of the regular file at path in hexadecimal, or "" if
// it has none, is no ELF file or cannot be read. CRIU compares it on restore
// (files-reg.c).
func Of(path string) string {
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer r.Close()
	f, err := elf.NewFile(r)
	if err != nil {
		return ""
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > maxNotes {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			continue
		}
		if id := find(notes, f.ByteOrder); id != nil {
			return hex.EncodeToString(id)
		}
	}
	return ""
}

// find walks notes (elf(5)): three words (length of the name, length of the value,
// type), then name and value, each padded to four bytes.
func find(b []byte, order binary.ByteOrder) []byte {
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
