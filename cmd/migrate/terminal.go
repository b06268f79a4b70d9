package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"migrate/supervisor"
)

// rawTerminal hands every key on to the program at the other end, if in is a
// terminal, until restore is called.
func rawTerminal(in io.Reader) (restore func()) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return func() {}
	}
	return func() { _ = term.Restore(int(f.Fd()), state) } // nothing is left to try
}

// windowSizes tells the size of our terminal, now and when it changes, until
// stop is called. Without a terminal it tells none.
func windowSizes(in io.Reader) (sizes <-chan supervisor.Size, stop func()) {
	out := make(chan supervisor.Size, 1)
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		close(out)
		return out, func() {}
	}
	changed, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(changed, syscall.SIGWINCH)
	changed <- syscall.SIGWINCH
	go func() {
		defer close(out)
		for {
			select {
			case <-changed:
			case <-done:
				return
			}
			columns, rows, err := term.GetSize(int(f.Fd()))
			if err != nil {
				continue
			}
			select {
			case out <- supervisor.Size{Rows: uint16(rows), Columns: uint16(columns)}:
			case <-done:
				return
			}
		}
	}()
	return out, func() { signal.Stop(changed); close(done) }
}

// drainTime is how long the rest of the output of a command that has ended is
// waited for.
const drainTime = 200 * time.Millisecond

func awaitRest(master *os.File, copied <-chan struct{}) {
	select {
	case <-copied:
	case <-time.After(drainTime):
		master.SetReadDeadline(time.Now()) // somebody else has the terminal open
	}
}

// Keys that detach: ctrl-p ctrl-q, as in podman.
const (
	detachFirst  = 0x10
	detachSecond = 0x11
)

var errDetached = errors.New("detached")

// detachReader passes input on until the keys to detach come; then it calls
// detach and ends. The first of them waits for the next key.
type detachReader struct {
	in      io.Reader
	detach  func()
	pending bool
}

// Read reads keys.
func (d *detachReader) Read(p []byte) (int, error) {
	if len(p) < 2 {
		return 0, io.ErrShortBuffer
	}
	for {
		n, err := d.in.Read(p[1:])
		out, detached := d.filter(p[1 : 1+n])
		if detached {
			d.detach()
			return copy(p, out), io.EOF
		}
		if len(out) > 0 || err != nil {
			return copy(p, out), err
		}
	}
}

// filter takes the keys to detach out of b.
func (d *detachReader) filter(b []byte) (out []byte, detached bool) {
	if d.pending {
		b = append([]byte{detachFirst}, b...)
		d.pending = false
	}
	if i := bytes.Index(b, []byte{detachFirst, detachSecond}); i >= 0 {
		return b[:i], true
	}
	if n := len(b); n > 0 && b[n-1] == detachFirst {
		d.pending = true
		b = b[:n-1]
	}
	return b, false
}
