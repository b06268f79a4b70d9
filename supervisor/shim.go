package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"migrate/criu"
)

// ShimName is the name by which a container runtime starts CRIU, and by which
// this program knows that it is meant to stand in for it.
const ShimName = "criu"

// shimVariable is the environment variable with the path of the control socket
// of the supervisor that the shim hands its socket to.
const shimVariable = "MIGRATE_SUPERVISOR"

// Shim is what a container runtime runs in place of CRIU when a supervisor of
// ours started it: it gives its end of the RPC socket to the supervisor, which
// has a CRIU of its own that waits, and ends when and as the supervisor says. The
// runtime puts the shim where the container is to be, in its cgroups for one, and
// CRIU follows it there.
func Shim(args []string) error {
	if len(args) != 2 || args[0] != "swrk" {
		return fmt.Errorf("a stand-in for criu that knows only \"swrk FD\", not %.80q", args)
	}
	fd, err := strconv.Atoi(args[1])
	if err != nil || fd < 0 {
		return fmt.Errorf("swrk %.20q: not a descriptor", args[1])
	}
	conn, err := dial(os.Getenv(shimVariable))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	defer conn.Close()
	if err := writeMessage(conn, request{Op: "criu"}); err != nil {
		return err
	}
	if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fd), nil); err != nil {
		return err
	}
	unix.Close(fd) // what the runtime reads ends with the supervisor
	return receive(conn, nil)
}

// A shimCall is a runtime that wants a restore.
type shimCall struct {
	caller *criu.Caller
	pid    int           // of the shim
	done   chan struct{} // closed to let the shim end
	err    error         // as which the shim ends; set before done is closed
}

// serveShim answers a runtime through its shim, until the call is over.
func (s *server) serveShim(conn *net.UnixConn) {
	err := s.passCall(conn)
	if err != nil {
		s.log.Warn("a container runtime's call", "cause", err)
	}
	s.reply(conn, answer(nil, err))
}

func (s *server) passCall(conn *net.UnixConn) error {
	sock, err := takeSocket(conn)
	if err != nil {
		return err
	}
	s.mu.Lock()
	r := s.restorer
	s.mu.Unlock()
	if r == nil {
		sock.Close()
		return errors.New("no container runtime was started from here")
	}
	caller, err := criu.Answer(sock, r.version)
	if err != nil || caller == nil {
		return err
	}
	defer caller.Close()
	call := &shimCall{caller: caller, done: make(chan struct{})}
	if call.pid, err = peerPID(conn); err != nil {
		return err
	}
	select {
	case r.calls <- call:
	default:
		return errors.New("the runtime wants a second restore")
	}
	select {
	case <-call.done:
		return call.err
	case <-r.over:
		return errors.New("the restore was given up")
	}
}

// takeSocket reads the descriptor that a shim sends.
func takeSocket(conn *net.UnixConn) (*os.File, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, errors.Join(errors.New("no socket came with the call"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("no socket came with the call"), err)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "runtime"), nil
}

func peerPID(conn *net.UnixConn) (pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, errors.Join(err, cerr)
}
