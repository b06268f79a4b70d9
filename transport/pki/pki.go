// Package pki makes and loads the certificates by which hosts know each other.
//
// A directory holds ca.crt (the authority this host trusts), host.crt and
// host.key. [Init] and [Issue] make them; certificates of any other authority
// work alike, as long as host.crt names the host in its first DNS subject
// alternative name and may be used by servers and by clients (or names no
// usage at all). That first name is the host's identity: it is what a target's
// allow list is compared with.
package pki

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// The files of a PKI directory. CAKeyFile is only where certificates are issued.
const (
	CACertFile   = "ca.crt"
	CAKeyFile    = "ca.key"
	HostCertFile = "host.crt"
	HostKeyFile  = "host.key"
)

// What a peer's certificate can be refused for. Errors of this package and of
// the TLS handshake wrap them.
var (
	ErrUnknownAuthority = errors.New("certificate signed by an unknown authority")
	ErrExpired          = errors.New("certificate is not valid now")
	ErrWrongName        = errors.New("certificate is for another host")
	ErrUnusable         = errors.New("certificate cannot be used")
)

// maxName is the longest host name: the limit of DNS and of the Hello frame.
const maxName = 255

// CheckName reports whether name can be a host's identity: letters, digits,
// dots, hyphens and underscores, starting with a letter or a digit.
func CheckName(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, notInName) || strings.ContainsRune("._-", rune(name[0])) {
		return fmt.Errorf("host name %.80q: want 1 to %d of a-z A-Z 0-9 . _ -, starting with a letter or digit", name, maxName)
	}
	return nil
}

func notInName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-')
}

func caCert(dir string) string   { return filepath.Join(dir, CACertFile) }
func caKey(dir string) string    { return filepath.Join(dir, CAKeyFile) }
func hostCert(dir string) string { return filepath.Join(dir, HostCertFile) }
func hostKey(dir string) string  { return filepath.Join(dir, HostKeyFile) }
