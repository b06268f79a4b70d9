package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"migrate"
	"migrate/workload"
	"migrate/workload/cgroup"
)

// server is the supervisor's side of the socket and the state of its workload.
type server struct {
	cfg      config
	log      *slog.Logger
	listener *net.UnixListener
	reaper   *reaper
	requests sync.WaitGroup
	done     chan struct{} // closed when nothing is left to supervise
	end      sync.Once
	kill     chan struct{} // closed when what outlives the root is to be killed
	killOnce sync.Once

	ops sync.Mutex // held by run, prepare and the start of a restore

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced with every change of what follows
	status   Status
	root     *exited
	group    *cgroup.Group
	stdio    *stdio
	attempt  *attempt
	restorer *restorer // of a container that is about to come or came; nil for others
	filler   *filler   // of the workload that runs
	net      *netns    // of a workload that is about to come; nil if none comes with it
	record   workload.Record
	ownPIDs  bool
	leases   map[*net.UnixConn]bool
	idle     *time.Timer
}

func newServer(cfg config, log *slog.Logger, l *net.UnixListener, r *reaper) *server {
	s := &server{
		cfg: cfg, log: log, listener: l, reaper: r,
		done: make(chan struct{}), kill: make(chan struct{}), changed: make(chan struct{}),
		status: Status{Name: cfg.name, State: Idle, PID: os.Getpid()},
		leases: map[*net.UnixConn]bool{},
	}
	s.idle = time.AfterFunc(IdleLimit, s.abandoned)
	return s
}

// serve answers until the workload's story is over, then removes the socket.
func (s *server) serve(ctx context.Context) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go s.accept()
	s.log.Info("supervisor started", "pid", os.Getpid())
	for over := false; !over; {
		select {
		case <-signals:
			go s.terminate()
		case <-s.done:
			over = true
		case <-ctx.Done():
			over = true
		}
	}
	s.shutDown()
	return nil
}

// shutDown lets the last answers out.
func (s *server) shutDown() {
	s.end.Do(s.removeSocket)
	s.listener.Close()
	answered := make(chan struct{})
	go func() { s.requests.Wait(); close(answered) }()
	select {
	case <-answered:
	case <-time.After(time.Second):
	}
	s.reaper.stop()
	leaveOwnCgroup()
	s.log.Info("supervisor ends", "state", s.snapshot().State)
}

func (s *server) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("control socket", "cause", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors or memory
			continue
		}
		s.requests.Add(1)
		go s.serveConn(conn)
	}
}

// requestTime is how long a client may take to send its request.
const requestTime = 10 * time.Second

func (s *server) serveConn(conn *net.UnixConn) {
	defer conn.Close()
	defer s.requests.Done()
	if err := checkPeer(conn); err != nil {
		s.reply(conn, answer(nil, err))
		return
	}
	conn.SetReadDeadline(time.Now().Add(requestTime))
	var req request
	if err := readMessage(conn, &req); err != nil {
		if !errors.Is(err, io.EOF) { // somebody only looked whether we are here
			s.log.Warn("request", "cause", err)
		}
		return
	}
	conn.SetReadDeadline(time.Time{})
	switch req.Op {
	case "lease":
		s.lease(conn)
	case "attach":
		s.attach(conn)
	case "criu":
		s.serveShim(conn)
	default:
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { // ends with the connection: a client sends one request
			_, _ = io.Copy(io.Discard, conn)
			cancel()
		}()
		result, err := s.dispatch(ctx, req)
		if err != nil {
			s.log.Warn("request refused", "op", req.Op, "cause", err)
		}
		s.reply(conn, answer(result, err))
	}
}

// reply answers a client. One that is gone can ask again.
func (s *server) reply(conn *net.UnixConn, r response) {
	if err := writeMessage(conn, r); err != nil {
		s.log.Debug("answer", "cause", err)
	}
}

// dispatch carries out one request. ctx ends when its client is gone, which
// ends a wait but never what was begun.
func (s *server) dispatch(ctx context.Context, req request) (any, error) {
	switch req.Op {
	case "state":
		return s.snapshot(), nil
	case "run":
		return with(req, s.run)
	case "prepare":
		return with(req, s.prepare)
	case "restore":
		return with(req, func(spec RestoreSpec) (Hold, error) { return s.restore(ctx, spec) })
	case "resume":
		return s.resume(ctx)
	case "discard":
		return s.snapshot(), s.discard(ctx)
	case "moved":
		return with(req, s.moved)
	case "stop":
		return with(req, func(a stopArgs) (Exit, error) { return s.stop(ctx, a) })
	case "wait":
		return s.wait(ctx)
	case "await-fill":
		return s.awaitFill(ctx)
	case "resize":
		return with(req, s.resize)
	}
	return nil, fmt.Errorf("request %.40q: not known to this version", req.Op)
}

// with calls f with the request's arguments.
func with[A, R any](req request, f func(A) (R, error)) (any, error) {
	var args A
	if err := json.Unmarshal(req.Args, &args); err != nil {
		return nil, fmt.Errorf("request %s: %w", req.Op, err)
	}
	return f(args)
}

// snapshot returns the status as it is now.
func (s *server) snapshot() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// update changes the state under the lock and wakes whoever waits for it.
func (s *server) update(f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.status.State
	f(&s.status)
	close(s.changed)
	s.changed = make(chan struct{})
	if s.status.State == before {
		return
	}
	s.log.Info("state", "state", s.status.State)
	if s.status.State == Failed {
		s.tellLost()
	}
	s.armIdle()
}

// await waits until ok says yes to the status, and returns that.
func (s *server) await(ctx context.Context, ok func(Status) bool) (Status, error) {
	for {
		s.mu.Lock()
		st, changed := s.status, s.changed
		s.mu.Unlock()
		if ok(st) {
			return st, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}

// refusal is the error for a request that does not fit the state.
func refusal(st Status, what string) error {
	err := &Error{migrate.Failure{What: what, Cause: "workload " + st.Name + " is " + string(st.State)}}
	if st.Failure != nil {
		err.failure.Cause += ": " + st.Failure.What
	}
	return err
}

// over ends the supervisor. The socket goes first: whoever hears that it is
// over may start the next one.
func (s *server) over(last State) {
	s.end.Do(func() {
		s.removeSocket()
		close(s.done)
	})
	s.update(func(st *Status) { st.State = last })
}

func (s *server) removeSocket() {
	if err := os.Remove(SocketPath(s.cfg.runDir, s.cfg.name)); err != nil {
		s.log.Warn("removing the control socket", "cause", err)
	}
}
