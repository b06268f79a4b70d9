package supervisor

import (
	"context"
	"errors"
	"io"
	"net"
)

// Attach connects stdin and stdout to the workload until it ends (then the
// error is nil), ctx ends (then it is ctx's cause; the workload runs on), or
// the client is too slow for the output (then it is [ErrSlow]).
//
// With a terminal, output begins with the last of what it showed, and sizes
// from resize are applied; else it is standard output and error as they come,
// and stdin goes to the workload's standard input if that is a pipe of ours.
// The end of stdin is not passed on. stdin and resize may be nil. A read of stdin
// that is under way at the end is not interrupted.
func (c *Client) Attach(ctx context.Context, stdin io.Reader, stdout io.Writer, resize <-chan Size) error {
	conn, err := c.send("attach", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := receive(conn, nil); err != nil {
		return err
	}
	if stdin != nil {
		go func() { _, _ = io.Copy(conn, stdin) }() // the output's end tells of a lost connection
	}
	if resize != nil {
		go c.passSizes(ctx, resize)
	}
	_, err = io.Copy(stdout, conn)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	if st, err := c.State(ctx); err == nil && st.State == Running && st.Exit == nil {
		return ErrSlow
	}
	return nil
}

// ErrSlow means that an attached client did not keep up with the output.
var ErrSlow = errors.New("detached: the client did not keep up with the workload's output")

func (c *Client) passSizes(ctx context.Context, sizes <-chan Size) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			_, _ = call[Status](ctx, c, "resize", s) // the next one may do better
		case <-ctx.Done():
			return
		}
	}
}

// attach carries an attached client's bytes, until either end goes.
func (s *server) attach(conn *net.UnixConn) {
	st := s.snapshot()
	if st.State != Running {
		s.reply(conn, answer(nil, refusal(st, "cannot attach")))
		return
	}
	output, cancel := s.stdio.hub.subscribe()
	defer cancel()
	if writeMessage(conn, response{}) != nil {
		return
	}
	go func() {
		defer cancel() // the client is gone
		if in := s.stdio.input(); in != nil {
			_, _ = io.Copy(in, conn) // until either end goes
		}
		_, _ = io.Copy(io.Discard, conn)
	}()
	for b := range output {
		if _, err := conn.Write(b); err != nil {
			return
		}
	}
}
