package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The magic numbers (include/magic.h). Images begin with two of them, the
// common one first; inventory.img has only its own.
const (
	commonMagic    = 0x54564319
	timensMagic    = 0x43114433
	pagemapMagic   = 0x56084025
	cpuinfoMagic   = 0x61404013
	inventoryMagic = 0x58313116
	filesMagic     = 0x56303138
	pipesMagic     = 0x56453709
	mmMagic        = 0x57492820
	pstreeMagic    = 0x50273030
	coreMagic      = 0x55053847
	cgroupMagic    = 0x59383330
)

// errShort means that an image ends in the middle of something.
var errShort = errors.New("image is cut short")

// openImage checks the two magic numbers and returns what follows. All
// numbers in images are little-endian: CRIU runs on no other machine that we
// build for.
func openImage(b []byte, magic uint32) ([]byte, error) {
	b, err := skipMagic(b, commonMagic)
	if err != nil {
		return nil, err
	}
	return skipMagic(b, magic)
}

func skipMagic(b []byte, magic uint32) ([]byte, error) {
	if len(b) < 4 {
		return nil, errShort
	}
	if got := binary.LittleEndian.Uint32(b); got != magic {
		return nil, fmt.Errorf("magic number %#x, want %#x", got, magic)
	}
	return b[4:], nil
}

func appendMagic(b []byte, magic uint32) []byte {
	b = binary.LittleEndian.AppendUint32(b, commonMagic)
	return binary.LittleEndian.AppendUint32(b, magic)
}

// cutMessage takes one message, a length and that many bytes, off b.
func cutMessage(b []byte) (msg, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errShort
	}
	n := binary.LittleEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return nil, nil, errShort
	}
	return b[:n], b[n:], nil
}

// onlyMessage takes the one message that b must consist of.
func onlyMessage(b []byte) ([]byte, error) {
	msg, rest, err := cutMessage(b)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the only message", len(rest))
	}
	return msg, nil
}

func appendMessage(b, msg []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(msg)))
	return append(b, msg...)
}

// readBounded reads a whole file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", filepath.Base(path), limit)
	}
	return b, nil
}
