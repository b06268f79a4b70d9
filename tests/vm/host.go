package vm

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"migrate/tests/vm/guest"
)

// Guest is a host to be spoken to.
type Guest struct {
	Host
	guest.Client
}

// guestOf speaks to the guest in a QEMU process.
func guestOf(h Host, pid int) Guest {
	return Guest{h, guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return dialIn(ctx, pid, controlAddress(h)) }}}
}

// Try runs a command and returns all that came of it.
func (g Guest) Try(ctx context.Context, args ...string) (stdout, stderr string, code int, err error) {
	var o, e bytes.Buffer
	code, err = g.Run(ctx, guest.Command{Args: args, Stdout: &o, Stderr: &e})
	return o.String(), e.String(), code, err
}

// Output runs a command and returns its standard output. A status other than 0
// is an error with what the command wrote.
func (g Guest) Output(ctx context.Context, args ...string) (string, error) {
	stdout, stderr, code, err := g.Try(ctx, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("status %d", code)
	}
	if err != nil {
		return stdout, fmt.Errorf("%s on %s: %w\n%s", strings.Join(args, " "), g.Name, err, tail(stdout+stderr, 60))
	}
	return stdout, nil
}

// PutFile copies a file into the guest.
func (g Guest) PutFile(ctx context.Context, from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if err := g.Put(ctx, to, fi.Mode(), f); err != nil {
		return fmt.Errorf("copying %s to %s: %w", from, g.Name, err)
	}
	return nil
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
