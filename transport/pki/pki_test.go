package pki

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func initCA(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := Init(dir, "test-ca"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func issue(t *testing.T, ca, name string, sans ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "host")
	if err := Issue(ca, dir, name, sans, 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t *testing.T, dir string) Identity {
	t.Helper()
	id, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIssueAndLoad(t *testing.T) {
	ca := initCA(t)
	dir := issue(t, ca, "host-a", "host-a.example", "192.0.2.7", "host-a")
	id := load(t, dir)
	leaf := id.Certificate.Leaf
	if id.Name != "host-a" || strings.Join(leaf.DNSNames, " ") != "host-a host-a.example" || !leaf.IPAddresses[0].Equal(net.IPv4(192, 0, 2, 7)) {
		t.Errorf("name %q, DNS %q, IP %v", id.Name, leaf.DNSNames, leaf.IPAddresses)
	}
	if left := time.Until(leaf.NotAfter); left > DefaultValidity || left < DefaultValidity-time.Minute {
		t.Errorf("valid for %v", left)
	}
	for path, want := range map[string]fs.FileMode{caKey(ca): 0o600, caCert(ca): 0o644, hostKey(dir): 0o600, hostCert(dir): 0o644, caCert(dir): 0o644} {
		st, err := os.Stat(path)
		if err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want mode %v", path, st.Mode(), err, want)
		}
	}
	if _, err := os.Stat(caKey(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the authority's key went to the host: %v", err)
	}
	if err := Issue(ca, dir, "host-b", nil, time.Hour); err != nil { // renewal
		t.Fatal(err)
	}
	if id := load(t, dir); id.Name != "host-b" {
		t.Errorf("name %q after renewal", id.Name)
	}
}

func TestInitKeepsAuthority(t *testing.T) {
	ca := initCA(t)
	if err := Init(ca, "second"); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("second Init = %v", err)
	}
}

func TestNoCertificateOutlivesItsAuthority(t *testing.T) {
	ca := initCA(t)
	dir := t.TempDir()
	if err := Issue(ca, dir, "host", nil, 50*365*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(caCert(ca), caKey(ca))
	if err != nil {
		t.Fatal(err)
	}
	if got := load(t, dir).Certificate.Leaf.NotAfter; got.After(pair.Leaf.NotAfter) {
		t.Errorf("host until %v, authority until %v", got, pair.Leaf.NotAfter)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "host-1.example": true, "H_2": true, strings.Repeat("a", 255): true, "1": true,
		"": false, ".": false, "..": false, "-x": false, "a/b": false, "a b": false, "ü": false, "a\x00": false, strings.Repeat("a", 256): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	if err := Issue(initCA(t), t.TempDir(), "ok", []string{"not ok"}, 0); err == nil {
		t.Error("Issue takes a bad alternative name")
	}
}

// sign puts a certificate made from template into a host's directory.
func sign(t *testing.T, ca string, template *x509.Certificate) string {
	t.Helper()
	parent, _, signer, err := loadCA(ca)
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	dir := issue(t, ca, "host")
	if err := writePair(hostCert(dir), hostKey(dir), der, key); err != nil {
		t.Fatal(err)
	}
	return dir
}

func template(change func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "host"}, DNSNames: []string{"host"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	change(c)
	return c
}

func TestLoadErrors(t *testing.T) {
	ca := initCA(t)
	tests := map[string]struct {
		dir  func() string
		want string
		is   error
	}{
		"nothing there": {func() string { return t.TempDir() }, CACertFile, fs.ErrNotExist},
		"no certificate": {func() string {
			d := issue(t, ca, "host")
			os.Remove(hostCert(d))
			return d
		}, HostCertFile, fs.ErrNotExist},
		"no key": {func() string {
			d := issue(t, ca, "host")
			os.Remove(hostKey(d))
			return d
		}, HostKeyFile, fs.ErrNotExist},
		"key open to others": {func() string {
			d := issue(t, ca, "host")
			os.Chmod(hostKey(d), 0o640)
			return d
		}, "chmod 600", nil},
		"key of another": {func() string {
			d, other := issue(t, ca, "host"), issue(t, ca, "other")
			os.Rename(hostKey(other), hostKey(d))
			return d
		}, "does not match", nil},
		"authority is rubbish": {func() string {
			d := issue(t, ca, "host")
			os.WriteFile(caCert(d), []byte("rubbish"), 0o644)
			return d
		}, "no certificate in it", nil},
		"expired": {func() string {
			return sign(t, ca, template(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
		}, "valid from", ErrExpired},
		"not yet valid": {func() string {
			return sign(t, ca, template(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }))
		}, "valid from", ErrExpired},
		"no name": {func() string {
			return sign(t, ca, template(func(c *x509.Certificate) { c.DNSNames = nil }))
		}, "no DNS name", ErrUnusable},
		"wildcard": {func() string {
			return sign(t, ca, template(func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} }))
		}, "host name", ErrUnusable},
		"server only": {func() string {
			return sign(t, ca, template(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))
		}, "by clients", ErrUnusable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load(tt.dir())
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("Load = %v, want %q (%v)", err, tt.want, tt.is)
			}
		})
	}
	if d := sign(t, ca, template(func(*x509.Certificate) {})); load(t, d).Name != "host" {
		t.Error("a certificate without usages must do")
	}
}

func TestIssueNeedsAuthority(t *testing.T) {
	ca := initCA(t)
	host := issue(t, ca, "host")
	os.Rename(hostKey(host), caKey(host))
	os.Rename(hostCert(host), caCert(host))
	if err := Issue(host, t.TempDir(), "x", nil, 0); err == nil || !strings.Contains(err.Error(), "not an authority") {
		t.Errorf("Issue by a host's certificate = %v", err)
	}
	if err := Issue(t.TempDir(), t.TempDir(), "x", nil, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Issue without an authority = %v", err)
	}
}

// shake runs a TLS handshake between two identities and returns what each side
// thinks of it.
func shake(t *testing.T, client, server Identity, peer string) (clientErr, serverErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // net.Pipe would block on alerts that cross
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		done <- tls.Server(conn, server.Server()).Handshake()
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return tls.Client(conn, client.Client(peer)).Handshake(), <-done
}

func TestHandshake(t *testing.T) {
	ours, theirs := initCA(t), initCA(t)
	source, target := load(t, issue(t, ours, "source")), load(t, issue(t, ours, "target", "192.0.2.1"))
	stranger := load(t, issue(t, theirs, "target"))
	liar := Identity{Name: "source", Certificate: stranger.Certificate, Roots: source.Roots}
	late := target
	late.Certificate = expired(t, ours)
	tests := map[string]struct {
		client, server Identity
		peer           string
		clientWant     error
		serverOK       bool
	}{
		"good":                {client: source, server: target, peer: "target", serverOK: true},
		"good, by address":    {client: source, server: target, peer: "192.0.2.1", serverOK: true},
		"good, any name":      {client: source, server: target, serverOK: true},
		"wrong name":          {client: source, server: target, peer: "other", clientWant: ErrWrongName},
		"wrong authority":     {client: source, server: stranger, peer: "target", clientWant: ErrUnknownAuthority},
		"any name, wrong one": {client: source, server: stranger, clientWant: ErrUnknownAuthority},
		"client unknown":      {client: liar, server: target, peer: "target"},
		"expired":             {client: source, server: late, peer: "host", clientWant: ErrExpired},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, s := shake(t, tt.client, tt.server, tt.peer)
			if !errors.Is(c, tt.clientWant) {
				t.Errorf("client: %v, want %v", c, tt.clientWant)
			}
			if (s == nil) != tt.serverOK {
				t.Errorf("server: %v", s)
			}
		})
	}
}

func expired(t *testing.T, ca string) tls.Certificate {
	t.Helper()
	d := sign(t, ca, template(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	pair, err := loadPair(hostCert(d), hostKey(d))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
