package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"migrate/internal/atomicfile"
)

const (
	caValidity = 10 * 365 * 24 * time.Hour

	// DefaultValidity is how long an issued certificate is good.
	DefaultValidity = 365 * 24 * time.Hour

	// skew dates certificates back, for hosts whose clocks are behind.
	skew = 10 * time.Minute
)

// Init makes a certificate authority called name in dir, creating dir. It
// refuses to replace an authority: every certificate of the old one would be
// worthless.
func Init(dir, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(caKey(dir)); err == nil {
		return fmt.Errorf("%s exists already: remove it first if every host gets new certificates", caKey(dir))
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-skew),
		NotAfter:              time.Now().Add(caValidity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return fmt.Errorf("making a certificate authority: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return writePair(caCert(dir), caKey(dir), der, key)
}

// Issue makes a key and a certificate for the host name, signed by the
// authority in caDir, and puts them with the authority's certificate into
// outDir, creating it and replacing what is there. sans are more names or IP
// addresses of the host. Zero validity means [DefaultValidity]; no certificate
// outlives its authority.
func Issue(caDir, outDir, name string, sans []string, validity time.Duration) error {
	if err := CheckName(name); err != nil {
		return err
	}
	ca, caPEM, signer, err := loadCA(caDir)
	if err != nil {
		return err
	}
	if validity <= 0 {
		validity = DefaultValidity
	}
	host := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		DNSNames:    []string{name},
		NotBefore:   time.Now().Add(-skew),
		NotAfter:    earlier(time.Now().Add(validity), ca.NotAfter),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: slices.Clone(bothUsages),
	}
	if err := addNames(host, sans); err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, host, ca, key.Public(), signer)
	if err != nil {
		return fmt.Errorf("issuing a certificate for %s: %w", name, err)
	}
	if err := os.MkdirAll(outDir, 0o755); err != nil {
		return err
	}
	if err := atomicfile.WriteFile(caCert(outDir), caPEM, 0o644); err != nil {
		return err
	}
	return writePair(hostCert(outDir), hostKey(outDir), der, key)
}

func addNames(host *x509.Certificate, sans []string) error {
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			host.IPAddresses = append(host.IPAddresses, ip)
			continue
		}
		if err := CheckName(s); err != nil {
			return err
		}
		if !slices.Contains(host.DNSNames, s) {
			host.DNSNames = append(host.DNSNames, s)
		}
	}
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func writePair(certPath, keyPath string, cert []byte, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return atomicfile.WriteFile(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
