package pki

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// bothUsages is what a host certificate must be good for: every host dials
// and is dialled.
var bothUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

// Identity is one host's certificate and the authorities it trusts. It is not
// changed after [Load] and may be shared.
type Identity struct {
	Name        string // first DNS name of the certificate
	Certificate tls.Certificate
	Roots       *x509.CertPool
}

// Load reads the identity in dir. Its error names the file and what is wrong
// with it.
func Load(dir string) (Identity, error) {
	caPEM, err := os.ReadFile(caCert(dir))
	if err != nil {
		return Identity{}, fmt.Errorf("authority certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return Identity{}, fmt.Errorf("%s: no certificate in it", caCert(dir))
	}
	pair, err := loadPair(hostCert(dir), hostKey(dir))
	if err != nil {
		return Identity{}, err
	}
	name, err := checkHost(pair.Leaf, time.Now())
	if err != nil {
		return Identity{}, fmt.Errorf("%s: %w", hostCert(dir), err)
	}
	return Identity{Name: name, Certificate: pair, Roots: roots}, nil
}

// checkHost returns the identity in cert, or why cert is no use to a host.
func checkHost(cert *x509.Certificate, now time.Time) (string, error) {
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return "", fmt.Errorf("%w: valid from %s to %s", ErrExpired, day(cert.NotBefore), day(cert.NotAfter))
	}
	for _, u := range bothUsages {
		if len(cert.ExtKeyUsage) > 0 && !slices.Contains(cert.ExtKeyUsage, u) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) {
			return "", fmt.Errorf("%w: it must allow use by servers and by clients", ErrUnusable)
		}
	}
	return nameOf(cert)
}

// nameOf returns the identity that cert gives its holder.
func nameOf(cert *x509.Certificate) (string, error) {
	if len(cert.DNSNames) == 0 {
		return "", fmt.Errorf("%w: it has no DNS name", ErrUnusable)
	}
	if err := CheckName(cert.DNSNames[0]); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	return cert.DNSNames[0], nil
}

// loadPair reads a certificate and its key, which nobody else may read.
func loadPair(certPath, keyPath string) (tls.Certificate, error) {
	if err := checkKeyMode(keyPath); err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.LoadX509KeyPair(certPath, keyPath) // fills in Leaf (since Go 1.23)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s and %s: %w", certPath, keyPath, err)
	}
	return pair, nil
}

func checkKeyMode(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("private key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: mode %#o lets others read the private key; chmod 600 it", path, st.Mode().Perm())
	}
	return nil
}

// loadCA reads the authority that signs: its certificate (also as PEM) and key.
func loadCA(dir string) (*x509.Certificate, []byte, crypto.Signer, error) {
	pair, err := loadPair(caCert(dir), caKey(dir))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, nil, nil, fmt.Errorf("%s: not an authority's certificate", caCert(dir))
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return nil, nil, nil, fmt.Errorf("%s: %w since %s", caCert(dir), ErrExpired, day(pair.Leaf.NotAfter))
	}
	pem, err := os.ReadFile(caCert(dir))
	return pair.Leaf, pem, signer, err
}

// Server returns the TLS settings of the side that is dialled. Every client
// must show a certificate of a trusted authority.
func (id Identity) Server() *tls.Config {
	c := id.base()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = id.Roots
	return c
}

// Client returns the TLS settings of the side that dials. The server must show
// a certificate of a trusted authority, for the host (or IP address) peer
// unless peer is "".
func (id Identity) Client(peer string) *tls.Config {
	c := id.base()
	c.ServerName = peer
	// The check of crypto/tls cannot be had without a host name, so the whole
	// of it is done by verifyServer, which runs on every handshake.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error { return id.verifyServer(cs, peer) }
	return c
}

func (id Identity) base() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.Certificate},
		SessionTicketsDisabled: true, // certificates are judged anew each time
	}
}

func (id Identity) verifyServer(cs tls.ConnectionState, peer string) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("%w: none was shown", ErrUnusable)
	}
	leaf := cs.PeerCertificates[0]
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: id.Roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return classify(err)
	}
	if peer == "" {
		return nil
	}
	if err := leaf.VerifyHostname(peer); err != nil {
		return fmt.Errorf("%w: %w", ErrWrongName, err)
	}
	return nil
}

// classify gives a failed verification the word callers branch on.
func classify(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w: %w", ErrUnknownAuthority, err)
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return fmt.Errorf("%w: %w", ErrExpired, err)
	}
	return fmt.Errorf("%w: %w", ErrUnusable, err)
}

// PeerName returns the identity of the host at the other end of a verified
// connection.
func PeerName(cs tls.ConnectionState) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", fmt.Errorf("%w: none was shown", ErrUnusable)
	}
	return nameOf(cs.PeerCertificates[0])
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }
