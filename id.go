package migrate

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// ID names one migration on both hosts: sixteen lower-case hexadecimal digits.
type ID string

const idBytes = 8

// NewID returns a random ID.
func NewID() ID {
	var b [idBytes]byte
	rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	return ID(hex.EncodeToString(b[:]))
}

// ParseID checks s, which may come from a peer and be used in a file name.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != idBytes || hex.EncodeToString(b) != s {
		return "", fmt.Errorf("migration id %.40q: want %d lower-case hexadecimal digits", s, 2*idBytes)
	}
	return ID(s), nil
}
