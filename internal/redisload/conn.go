package redisload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// Dial connects to an address from where the client is.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// dialTime is how long a connection may take; a host that is up refuses at once.
const dialTime = 200 * time.Millisecond

// conn speaks RESP2, the protocol of redis, as far as is needed here.
type conn struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

func connect(ctx context.Context, dial Dial, address string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &conn{c, bufio.NewReaderSize(c, 1<<16), bufio.NewWriterSize(c, 1<<16)}, nil
}

// send queues a command; the error of a broken connection comes with flush.
func (c *conn) send(args ...string) {
	fmt.Fprintf(c.w, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(c.w, "$%d\r\n%s\r\n", len(a), a)
	}
}

// receive returns the next answer: a text, or the digits of a number.
func (c *conn) receive() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, fmt.Errorf("answer %q", line)
	}
	kind, rest := line[0], string(line[1:len(line)-2])
	switch kind {
	case '+', ':':
		return []byte(rest), nil
	case '-':
		return nil, errors.New(rest)
	case '$':
		return c.bulk(rest)
	}
	return nil, fmt.Errorf("answer %q", line)
}

func (c *conn) bulk(size string) ([]byte, error) {
	n, err := strconv.Atoi(size)
	if err != nil || n > 1<<20 {
		return nil, fmt.Errorf("answer of %q bytes", size)
	}
	if n < 0 {
		return nil, errMissing
	}
	b := make([]byte, n+2)
	_, err = io.ReadFull(c.r, b)
	return b[:n], err
}

var errMissing = errors.New("there is no such key")

// ask sends a command and returns its answer.
func (c *conn) ask(args ...string) ([]byte, error) {
	c.send(args...)
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	return c.receive()
}

// batch is how many commands are on their way at once where many are sent.
const batch = 256

// each sends a command for every number from 0 to n-1 and gives the answers to
// check in the same order.
func (c *conn) each(n int, command func(i int) []string, check func(i int, answer []byte) error) error {
	for i := 0; i < n; i += batch {
		end := min(i+batch, n)
		for j := i; j < end; j++ {
			c.send(command(j)...)
		}
		if err := c.w.Flush(); err != nil {
			return err
		}
		for j := i; j < end; j++ {
			answer, err := c.receive()
			if err != nil {
				return err
			}
			if err := check(j, answer); err != nil {
				return err
			}
		}
	}
	return nil
}
