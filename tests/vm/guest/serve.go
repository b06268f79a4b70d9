package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outputDelay is how long output is read after a command has ended: what it
// left in the background may hold the pipe for ever.
const outputDelay = 100 * time.Millisecond

// Serve answers requests until the listener is closed.
func Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			answer(newFrames(c))
			hangUp(c)
		}()
	}
}

// lastWords is how long a client may take to read an answer.
const lastWords = 10 * time.Second

// hangUp closes a connection after the client has. Closed with anything unread, such
// as the end of an input that nobody wanted, it would be reset, and what the
// client has not read yet be lost (RFC 1122, 4.2.2.13).
func hangUp(c net.Conn) {
	defer c.Close()
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
	_ = c.SetReadDeadline(time.Now().Add(lastWords))
	_, _ = io.Copy(io.Discard, c)
}

// answer does one request. Who does not hear the answer has gone away.
func answer(f *frames) {
	code, err := do(f)
	if err != nil {
		_ = f.write(kindError, []byte(err.Error()))
		return
	}
	_ = f.write(kindExit, []byte{byte(code)})
}

func do(f *frames) (int, error) {
	k, b, err := f.read()
	if err != nil {
		return 0, err
	}
	var r request
	if err := json.Unmarshal(b, &r); err != nil || k != kindRequest {
		return 0, errors.Join(errors.New("not a request"), err)
	}
	switch {
	case len(r.Exec) > 0:
		return run(f, r.Exec)
	case r.Put != "":
		return 0, put(f, r.Put, os.FileMode(r.Mode))
	case r.Get != "":
		return 0, get(f, r.Get)
	}
	return 0, nil
}

func put(f *frames, path string, mode os.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".put*")
	if err != nil {
		return err
	}
	defer func() {
		tmp.Close()
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if err := receive(f, tmp); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(mode), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// receive copies what the client sends, to its end.
func receive(f *frames, w io.Writer) error {
	for {
		switch k, b, err := f.read(); {
		case err != nil:
			return err
		case k == kindEOF:
			return nil
		case k != kindStdin:
			return fmt.Errorf("a frame of kind %d in a file", k)
		default:
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
	}
}

func get(f *frames, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(stream{f, kindStdout}, struct{ io.Reader }{file})
	return err
}

// run runs a command in a session of its own.
func run(f *frames, args []string) (int, error) {
	cmd := exec.Command(args[0], args[1:]...) // the client's going away ends it, see obey
	cmd.Stdout, cmd.Stderr = stream{f, kindStdout}, stream{f, kindStderr}
	cmd.WaitDelay = outputDelay
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var ended atomic.Bool
	go obey(f, cmd.Process.Pid, &ended, stdin)
	defer ended.Store(true)
	return status(cmd.Wait())
}

// obey passes on input and signals until the client goes away, and then kills
// the command's process group, if the command has not ended: what it left in
// the background stays.
func obey(f *frames, pid int, ended *atomic.Bool, stdin io.WriteCloser) {
	defer stdin.Close()
	for {
		k, b, err := f.read()
		if err != nil || ended.Load() {
			if !ended.Load() {
				_ = unix.Kill(-pid, unix.SIGKILL)
			}
			return
		}
		switch {
		case k == kindEOF:
			stdin.Close()
		case k == kindStdin:
			_, _ = stdin.Write(b) // a command that does not read is its own affair
		case k == kindSignal && len(b) == 1:
			_ = unix.Kill(-pid, unix.Signal(b[0]))
		}
	}
}

// status turns what Wait returned into an exit status.
func status(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case !errors.As(err, &exit):
		return 0, err
	}
	if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

func signalNumber(s os.Signal) byte {
	if n, ok := s.(syscall.Signal); ok {
		return byte(n)
	}
	return byte(unix.SIGTERM)
}
