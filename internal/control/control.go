// Package control lets a command ask a process of this host that is at work:
// over a Unix socket that only root may use, one question and its answer, both
// JSON, on a connection.
//
// What is asked and answered is the caller's. An asker that goes away is none
// of the server's business; a server that does not answer in time is an error
// of the asker's.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Server is the side that is asked. Make it with [Listen].
type Server struct {
	listener net.Listener
	work     sync.WaitGroup
}

// Listen makes the socket. Whoever asks waits until [Serve].
func Listen(ctx context.Context, path string) (*Server, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Server{listener: l}, nil
}

// Serve has answer called for every question, beside each other, until the
// server is closed. It returns at once. limit bounds one exchange.
func Serve[Q, A any](s *Server, limit time.Duration, answer func(Q) A) {
	s.work.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { serve(conn, limit, answer) })
		}
	})
}

func serve[Q, A any](conn net.Conn, limit time.Duration, answer func(Q) A) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	var q Q
	if err := json.NewDecoder(conn).Decode(&q); err != nil {
		return
	}
	_ = json.NewEncoder(conn).Encode(answer(q)) // the asker's trouble, if it fails
}

// Close removes the socket and waits for answers under way.
func (s *Server) Close() {
	s.listener.Close()
	s.work.Wait()
}

// ErrNobody means that no process has the socket open.
var ErrNobody = errors.New("nobody is there to ask")

// Ask asks the process that serves path. limit bounds all of it.
func Ask[A any](path string, limit time.Duration, question any) (answer A, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return answer, ErrNobody
	}
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	if err := json.NewEncoder(conn).Encode(question); err != nil {
		return answer, fmt.Errorf("asking over %s: %w", path, err)
	}
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		return answer, fmt.Errorf("answer over %s: %w", path, err)
	}
	return answer, nil
}
