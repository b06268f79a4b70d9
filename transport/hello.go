package transport

import (
	"encoding/binary"
	"fmt"
	"io"

	"migrate/transport/pki"
)

// Versions of the protocol that this package speaks.
const (
	MinVersion uint16 = 1
	MaxVersion uint16 = 2
)

const (
	helloMagic = "MIGR"
	helloLen   = 9 // without the name
)

// hello is the first thing each side writes to the control stream. It never
// changes shape, so that any two releases can at least say that they do not
// understand each other.
type hello struct {
	Min, Max uint16
	Host     string
}

func (h hello) appendTo(b []byte) []byte {
	b = append(b, helloMagic...)
	b = binary.BigEndian.AppendUint16(b, h.Min)
	b = binary.BigEndian.AppendUint16(b, h.Max)
	b = append(b, byte(len(h.Host)))
	return append(b, h.Host...)
}

func readHello(r io.Reader) (hello, error) {
	var b [helloLen + MaxHostName]byte
	if _, err := io.ReadFull(r, b[:helloLen]); err != nil {
		return hello{}, err
	}
	h := hello{Min: binary.BigEndian.Uint16(b[4:]), Max: binary.BigEndian.Uint16(b[6:])}
	if string(b[:4]) != helloMagic || h.Min == 0 || h.Min > h.Max {
		return hello{}, fmt.Errorf("%w: hello % x", ErrProtocol, b[:helloLen])
	}
	name := b[helloLen : helloLen+int(b[8])]
	if _, err := io.ReadFull(r, name); err != nil {
		return hello{}, err
	}
	h.Host = string(name)
	if err := pki.CheckName(h.Host); err != nil {
		return hello{}, fmt.Errorf("%w: hello: %w", ErrProtocol, err)
	}
	return h, nil
}

// common returns the highest version that both sides speak.
func common(ours, theirs hello) (uint16, error) {
	v := min(ours.Max, theirs.Max)
	if v < ours.Min || v < theirs.Min {
		return 0, &VersionError{OurMin: ours.Min, OurMax: ours.Max, TheirMin: theirs.Min, TheirMax: theirs.Max}
	}
	return v, nil
}
