package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"migrate"
)

// A connection carries one request and its answer; after the answer to
// "attach" it carries the workload's bytes, and "lease" is never answered.
// Each message is its length, four bytes big-endian, and that much JSON. Both
// ends are the same program or near versions of it.
type request struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

type response struct {
	Failure *migrate.Failure `json:"failure,omitempty"`
	Result  json.RawMessage  `json:"result,omitempty"`
}

// maxMessage bounds a message. A workload with ten thousand open files takes
// about 2 MiB.
const maxMessage = 32 << 20

func writeMessage(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes: more than %d", len(b), maxMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("message of %d bytes: more than %d", n, maxMessage)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// answer is the response to a request that ended with result or err.
func answer(result any, err error) response {
	if err != nil {
		f, _ := migrate.FailureOf(err)
		return response{Failure: &f}
	}
	b, err := json.Marshal(result)
	if err != nil {
		return response{Failure: &migrate.Failure{What: err.Error()}}
	}
	return response{Result: b}
}

// Error is what a supervisor answered instead of doing what it was asked.
type Error struct{ failure migrate.Failure }

// Error returns what failed and why, without the advice.
func (e *Error) Error() string {
	if e.failure.Cause == "" {
		return e.failure.What
	}
	return e.failure.What + ": " + e.failure.Cause
}

// Failure returns the error in the three lines of a report.
func (e *Error) Failure() migrate.Failure { return e.failure }

// SocketPath returns the path of the control socket of the workload NAME.
func SocketPath(runDir, name string) string { return filepath.Join(runDir, "w", name+".sock") }

// throughDir calls f with a short path for the socket: its directory, opened,
// as /proc/self/fd/N. A socket address holds no more than 107 bytes (unix(7)).
func throughDir(path string, f func(short string) error) error {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), filepath.Base(path)))
}

// listen makes the control socket. One that nobody listens on is replaced.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer dir.Close() // and with it the lock: of two that start at once, one is first
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if conn, err := dial(path); err == nil {
		conn.Close()
		name := strings.TrimSuffix(filepath.Base(path), ".sock")
		return nil, fmt.Errorf("workload %s has a supervisor already", name)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	var l *net.UnixListener
	err = throughDir(path, func(short string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // it would use the short path
	return l, os.Chmod(path, 0o600)
}

func dial(path string) (conn *net.UnixConn, err error) {
	err = throughDir(path, func(short string) (err error) {
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: short})
		return err
	})
	return conn, err
}

// checkPeer refuses everybody but root and who we are: the socket's mode does
// so already, unless somebody changes it.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not control this workload", cred.Uid)
	}
	return nil
}
