package lazymap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cespare/xxhash/v2"
)

const (
	magic   = "migrlazy"
	version = 1
	headLen = len(magic) + 4 + 4 + 8
	rowLen  = 32
	sumLen  = 8
)

// Write makes the file path, which must not exist. It is not flushed: the pages
// that it tells of would not survive a power cut either.
func Write(path string, m Map) error {
	if err := m.validate(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(m.encode())
	return errors.Join(err, f.Close())
}

// Read reads and checks a file that [Write] made. An error that matches
// [ErrDamaged] means that it holds something else.
func Read(path string) (Map, error) {
	f, err := os.Open(path)
	if err != nil {
		return Map{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return Map{}, err
	}
	m, err := Parse(b)
	if err != nil {
		return Map{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func (m Map) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, headLen+len(m.Files)*32+len(m.Rows)*rowLen+sumLen)
	b = append(b, magic...)
	b = le.AppendUint32(b, version)
	b = le.AppendUint32(b, uint32(len(m.Files)))
	b = le.AppendUint64(b, uint64(len(m.Rows)))
	for _, name := range m.Files {
		b = append(append(b, byte(len(name))), name...)
	}
	for _, r := range m.Rows {
		b = le.AppendUint32(b, uint32(r.Image))
		b = le.AppendUint32(b, uint32(r.File))
		b = le.AppendUint64(b, r.Address)
		b = le.AppendUint64(b, r.Pages)
		b = le.AppendUint64(b, r.Slot)
	}
	return le.AppendUint64(b, xxhash.Sum64(b))
}

// Parse decodes what [Write] wrote.
func Parse(b []byte) (Map, error) {
	m, err := parse(b)
	if err != nil {
		return Map{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return m, nil
}

func parse(b []byte) (Map, error) {
	le := binary.LittleEndian
	if len(b) < headLen+sumLen || len(b) > maxBytes {
		return Map{}, fmt.Errorf("%d bytes", len(b))
	}
	body := b[:len(b)-sumLen]
	if le.Uint64(b[len(body):]) != xxhash.Sum64(body) {
		return Map{}, errors.New("wrong checksum")
	}
	if string(body[:len(magic)]) != magic || le.Uint32(body[8:]) != version {
		return Map{}, fmt.Errorf("begins with %q", body[:12])
	}
	files, rows := le.Uint32(body[12:]), le.Uint64(body[16:])
	names, rest, err := parseNames(body[headLen:], files)
	if err != nil {
		return Map{}, err
	}
	if rows != uint64(len(rest))/rowLen || len(rest)%rowLen != 0 {
		return Map{}, fmt.Errorf("%d rows in %d bytes", rows, len(rest))
	}
	m := Map{Files: names, Rows: make([]Row, rows)}
	for i := range m.Rows {
		m.Rows[i] = parseRow(rest[i*rowLen:])
	}
	return m, m.validate()
}

func parseNames(b []byte, n uint32) (names []string, rest []byte, err error) {
	if n > maxFiles || int(n) > len(b) {
		return nil, nil, fmt.Errorf("%d files", n)
	}
	names = make([]string, n)
	for i := range names {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return nil, nil, errors.New("a name is cut off")
		}
		end := 1 + int(b[0])
		names[i], b = string(b[1:end]), b[end:]
	}
	return names, b, nil
}

func parseRow(b []byte) Row {
	le := binary.LittleEndian
	return Row{
		Image: uint64(le.Uint32(b)), File: int(le.Uint32(b[4:])), Address: le.Uint64(b[8:]),
		Pages: le.Uint64(b[16:]), Slot: le.Uint64(b[24:]),
	}
}
