package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// Client speaks to one guest. It may be used by several goroutines.
type Client struct {
	Dial func(context.Context) (net.Conn, error)
}

// Command is what a guest is to run. It is found in the guest's PATH, and gets
// pipes for what is not nil.
type Command struct {
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // passed on to its process group
}

// Ping returns when the guest has answered.
func (c Client) Ping(ctx context.Context) error {
	_, err := c.do(ctx, request{}, Command{})
	return err
}

// Run runs a command and returns its exit status, 128 + N when signal N ended
// it. The command is killed when ctx ends; what it left in the background in a
// session of its own is not.
func (c Client) Run(ctx context.Context, cmd Command) (int, error) {
	if len(cmd.Args) == 0 {
		return 0, errors.New("no command")
	}
	return c.do(ctx, request{Exec: cmd.Args}, cmd)
}

// Put writes a file, whose directory is made if there is none. A file of that
// name is replaced, not overwritten: a program may be running from it.
func (c Client) Put(ctx context.Context, path string, mode os.FileMode, content io.Reader) error {
	_, err := c.do(ctx, request{Put: path, Mode: uint32(mode.Perm())}, Command{Stdin: content})
	return err
}

// Get copies a file's content to w.
func (c Client) Get(ctx context.Context, path string, w io.Writer) error {
	_, err := c.do(ctx, request{Get: path}, Command{Stdout: w})
	return err
}

func (c Client) do(ctx context.Context, r request, cmd Command) (int, error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	f := newFrames(conn)
	if err := f.writeJSON(kindRequest, r); err != nil {
		return 0, errors.Join(ctx.Err(), err)
	}
	done := make(chan struct{})
	defer close(done)
	go feed(f, cmd, done)
	code, err := collect(f, cmd)
	return code, errors.Join(ctx.Err(), err)
}

// feed sends what the command reads. Errors are seen by who reads the answer.
func feed(f *frames, cmd Command, done <-chan struct{}) {
	if cmd.Signals != nil {
		go func() {
			for {
				select {
				case s := <-cmd.Signals:
					_ = f.write(kindSignal, []byte{signalNumber(s)})
				case <-done:
					return
				}
			}
		}()
	}
	if cmd.Stdin != nil {
		_, _ = io.Copy(stream{f, kindStdin}, cmd.Stdin)
	}
	_ = f.write(kindEOF, nil)
}

// collect reads the answer.
func collect(f *frames, cmd Command) (int, error) {
	for {
		k, b, err := f.read()
		if err != nil {
			return 0, fmt.Errorf("no answer from the guest: %w", err)
		}
		switch k {
		case kindStdout:
			err = output(cmd.Stdout, b)
		case kindStderr:
			err = output(cmd.Stderr, b)
		case kindExit:
			if len(b) != 1 {
				return 0, errors.New("a bad exit status from the guest")
			}
			return int(b[0]), nil
		case kindError:
			return 0, errors.New(string(b))
		default:
			err = fmt.Errorf("a frame of kind %d from the guest", k)
		}
		if err != nil {
			return 0, err
		}
	}
}

func output(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}
