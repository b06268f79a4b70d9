package supervisor

import (
	"context"
	"io"
	"net"

	"migrate"
)

// lease keeps a connection that says that its client is alive, until it closes.
func (s *server) lease(conn *net.UnixConn) {
	s.mu.Lock()
	s.leases[conn] = true
	s.armIdle()
	if s.status.State == Failed {
		tellLost(conn)
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		select {
		case <-s.done: // do not hold up the end
			conn.Close()
		case <-ended:
		}
	}()
	_, _ = io.Copy(io.Discard, conn) // until it ends, however that is
	close(ended)
	s.mu.Lock()
	delete(s.leases, conn)
	s.armIdle()
	s.mu.Unlock()
}

// tellLost tells every client that what was restored is gone. s.mu is held.
func (s *server) tellLost() {
	for conn := range s.leases {
		tellLost(conn)
	}
}

// tellLost writes into an empty socket buffer, so it does not wait.
func tellLost(conn *net.UnixConn) {
	_ = writeMessage(conn, response{Failure: &migrate.Failure{What: "the restored copy is lost"}}) // or its client is gone
}

// unvoted reports whether nobody was given any word yet: then the supervisor
// may give up on its own.
func unvoted(st State) bool { return st == Idle || st == Prepared || st == Failed }

// armIdle starts or stops the time that a supervisor waits for a client. s.mu is held.
func (s *server) armIdle() {
	if unvoted(s.status.State) && len(s.leases) == 0 {
		s.idle.Reset(IdleLimit)
		return
	}
	s.idle.Stop()
}

// abandoned gives up if still nobody came.
func (s *server) abandoned() {
	s.mu.Lock()
	give := unvoted(s.status.State) && len(s.leases) == 0
	s.mu.Unlock()
	if !give {
		return
	}
	s.log.Warn("no client came: giving up")
	if err := s.discard(context.Background()); err != nil {
		s.log.Error("giving up", "cause", err)
	}
}
