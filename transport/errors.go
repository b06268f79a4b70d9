package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/quic-go/quic-go"

	"migrate"
	"migrate/transport/pki"
)

// Code is why a side ended a session or gave up a stream. Values go over the
// wire (QUIC application error codes): never reuse or renumber one.
type Code uint64

// The codes.
const (
	CodeNone               Code = 0x00 // orderly end
	CodeProtocol           Code = 0x01 // the peer broke the protocol
	CodeUnknownCertificate Code = 0x02 // certificate of a trusted authority, without a usable name
	CodeNotAllowed         Code = 0x03 // the peer's name is not on the allow list
	CodeVersion            Code = 0x04 // no common version
	CodeBusy               Code = 0x05 // too many sessions
	CodeShutdown           Code = 0x06 // the agent is stopping
	CodeCancelled          Code = 0x07 // given up on purpose: the operation was cancelled
	CodeInternal           Code = 0x08 // a fault on the side that closed
)

var codeNames = map[Code]string{
	CodeNone: "orderly end", CodeProtocol: "protocol error", CodeUnknownCertificate: "unknown certificate",
	CodeNotAllowed: "not allowed", CodeVersion: "no common version", CodeBusy: "busy",
	CodeShutdown: "shutting down", CodeCancelled: "cancelled", CodeInternal: "internal error",
}

// String returns the code's name in docs/protocol.md.
func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return fmt.Sprintf("error code %#x", uint64(c))
}

// What can be wrong with a session. Errors of this package wrap one of these,
// or an error of package pki, or are the caller's own context's cause.
var (
	ErrUnreachable    = errors.New("no agent answers")
	ErrLost           = errors.New("connection to the peer lost")
	ErrClosed         = errors.New("session closed on this side")
	ErrProtocol       = errors.New("protocol error")
	ErrPeerCloses     = errors.New("the peer ended the session")
	ErrNotAllowed     = errors.New("the peer does not allow this host")
	ErrBusy           = errors.New("the peer has too many sessions")
	ErrShutdown       = errors.New("the peer is shutting down")
	ErrCancelled      = errors.New("cancelled by the peer")
	ErrOurCertificate = errors.New("the peer does not accept this host's certificate")
	ErrVersion        = errors.New("no common protocol version")
)

// PeerError is the peer's own word on why it ended a session or a stream.
type PeerError struct {
	Code   Code
	Reason string // one line; chosen by the peer, stripped of what a terminal would obey
}

// Error returns what the peer said.
func (e *PeerError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("peer says: %v", e.Code)
	}
	return fmt.Sprintf("peer says: %v: %s", e.Code, e.Reason)
}

// Unwrap returns the sentinel of the code.
func (e *PeerError) Unwrap() error {
	switch e.Code {
	case CodeProtocol:
		return ErrProtocol
	case CodeUnknownCertificate:
		return ErrOurCertificate
	case CodeNotAllowed:
		return ErrNotAllowed
	case CodeVersion:
		return ErrVersion
	case CodeBusy:
		return ErrBusy
	case CodeShutdown:
		return ErrShutdown
	case CodeCancelled:
		return ErrCancelled
	}
	return ErrPeerCloses
}

// VersionError is an [ErrVersion] that knows both ranges.
type VersionError struct {
	OurMin, OurMax     uint16
	TheirMin, TheirMax uint16
}

// Error names both ranges.
func (e *VersionError) Error() string {
	return fmt.Sprintf("no common protocol version: this host speaks %s, the peer %s",
		versions(e.OurMin, e.OurMax), versions(e.TheirMin, e.TheirMax))
}

// Unwrap returns [ErrVersion].
func (e *VersionError) Unwrap() error { return ErrVersion }

// OldPeerError is a message that the peer's version of the protocol lacks.
type OldPeerError struct {
	Peer    string
	Frame   FrameType
	Version uint16 // that both sides speak
}

// Error names the peer and what it lacks.
func (e *OldPeerError) Error() string {
	return fmt.Sprintf("host %s runs an older migrate, which cannot do this (%v needs protocol version %d, it speaks %d)", e.Peer, e.Frame, since[e.Frame], e.Version)
}

// Unwrap returns [ErrVersion].
func (e *OldPeerError) Unwrap() error { return ErrVersion }

// Failure says what to do about it.
func (e *OldPeerError) Failure() migrate.Failure {
	return migrate.Failure{What: e.Error(), Advice: "upgrade migrate on " + e.Peer + " and start its agent again"}
}

func versions(lo, hi uint16) string {
	if lo == hi {
		return fmt.Sprint(lo)
	}
	return fmt.Sprintf("%d to %d", lo, hi)
}

// translate turns an error of quic-go into one of this package's.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return closedBy(e.Remote, Code(e.ErrorCode), e.ErrorMessage)
	}
	if e, ok := errors.AsType[*quic.StreamError](err); ok {
		return closedBy(e.Remote, Code(e.ErrorCode), "stream given up")
	}
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		return translateTransport(e)
	}
	if errors.Is(err, quic.ErrStreamClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

func closedBy(remote bool, c Code, reason string) error {
	if remote {
		return &PeerError{Code: c, Reason: clean(reason)}
	}
	return fmt.Errorf("%w: %v", ErrClosed, c)
}

// ourJudgement returns why this side ended the TLS handshake.
func ourJudgement(e *quic.TransportError) error {
	for _, why := range []error{pki.ErrUnknownAuthority, pki.ErrExpired, pki.ErrWrongName, pki.ErrUnusable} {
		if errors.Is(e, why) {
			inner := e.Unwrap()
			return inner[len(inner)-1] // without QUIC's words around it
		}
	}
	return fmt.Errorf("%w: %w", ErrLost, e)
}

// cryptoErrors is the first of the 256 QUIC error codes that carry a TLS
// alert (RFC 9001, section 4.8).
const cryptoErrors quic.TransportErrorCode = 0x100

func translateTransport(e *quic.TransportError) error {
	if e.ErrorCode == quic.ConnectionRefused {
		return &PeerError{Code: CodeBusy}
	}
	if !e.ErrorCode.IsCryptoError() {
		return fmt.Errorf("%w: %w", ErrLost, e)
	}
	if !e.Remote {
		return ourJudgement(e)
	}
	alert := tls.AlertError(e.ErrorCode - cryptoErrors)
	if alert == alertNoApplicationProtocol {
		return fmt.Errorf("%w: the service there is not a migrate agent (%w)", ErrUnreachable, alert)
	}
	return fmt.Errorf("%w: %w", ErrOurCertificate, alert)
}

// Broken reports whether err is of a link that broke: the network or the other
// host went away without a word, and dialling again may bring them back. What
// the peer, or TLS, or this side said is not; nor is a context's end.
func Broken(err error) bool {
	if errors.Is(err, ErrUnreachable) { // of a Dial
		return !errors.Is(err, alertNoApplicationProtocol)
	}
	if !errors.Is(err, ErrLost) {
		return false
	}
	e, ok := errors.AsType[*quic.TransportError](err) // of RFC 9000, section 20.1
	return !ok || e.ErrorCode == quic.NoViablePathError
}

// alertNoApplicationProtocol is the TLS alert for "no common ALPN protocol"
// (RFC 7301).
const alertNoApplicationProtocol tls.AlertError = 120

// clean bounds text from the peer and takes out what a terminal would obey.
func clean(s string) string {
	const limit = 300
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// failures says what to tell the operator, the most particular error first.
var failures = []struct {
	err          error
	what, advice string
}{
	{pki.ErrUnknownAuthority, "the peer's certificate is not from an authority this host trusts", "issue both hosts' certificates with the same authority: migrate pki issue"},
	{pki.ErrExpired, "the peer's certificate is not valid now", "compare the clocks of both hosts, or issue a new certificate: migrate pki issue"},
	{pki.ErrWrongName, "the peer's certificate is for another host", "check the address, or issue a certificate with this name: migrate pki issue"},
	{pki.ErrUnusable, "the peer's certificate cannot be used", "issue a new certificate: migrate pki issue"},
	{ErrOurCertificate, "the peer does not accept this host's certificate", "issue both hosts' certificates with the same authority: migrate pki issue"},
	{ErrNotAllowed, "the peer does not allow this host", "start the agent there with --allow and this host's certificate name"},
	{ErrVersion, "no protocol version that both hosts speak", "install the same release of migrate on both hosts"},
	{ErrUnreachable, "no agent answers", "start \"migrate agent\" there, and check the address and that the UDP port is open"},
	{ErrBusy, "the peer has too many sessions", "try again when other migrations are over"},
	{ErrShutdown, "the peer is shutting down", "try again when its agent runs"},
	{ErrCancelled, "cancelled by the peer", ""},
	{ErrProtocol, "the two hosts do not understand each other", "install the same release of migrate on both hosts"},
	{ErrLost, "the connection to the peer was lost", "check the network between the hosts and that the agent there still runs"},
	{ErrClosed, "the session was closed", ""},
	{ErrPeerCloses, "the peer ended the session", "see the log of the agent there"},
}

// Failure says err in three lines. It works for any error; those of this
// package get advice.
func Failure(err error) migrate.Failure {
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return migrate.Failure{What: f.what, Cause: strings.ReplaceAll(err.Error(), "\n", "; "), Advice: f.advice}
		}
	}
	f, _ := migrate.FailureOf(err)
	return f
}
