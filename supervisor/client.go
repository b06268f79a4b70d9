package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"migrate"
)

// IdleLimit is how long a supervisor that holds nothing and runs nothing waits
// for a client before it ends.
const IdleLimit = time.Minute

// Client talks to one supervisor. Its methods may be called from several
// goroutines. While it is open the supervisor knows that somebody cares;
// closing it changes nothing for a workload that is held or runs.
//
// Errors that the supervisor reports are an [*Error]. One that matches
// [ErrGone] means that it ended before it answered.
type Client struct {
	path  string
	name  string
	lease *net.UnixConn
	lost  chan struct{}
	once  sync.Once
}

// ErrGone means that the supervisor is not there, or ended before it answered.
var ErrGone = errors.New("the workload's supervisor does not run")

// Connect returns a client for the supervisor of the workload NAME.
func Connect(runDir, name string) (*Client, error) {
	c := &Client{path: SocketPath(runDir, name), name: name, lost: make(chan struct{})}
	conn, err := c.send("lease", nil)
	if err != nil {
		return nil, err
	}
	c.lease = conn
	go c.watch()
	return c, nil
}

// watch reads what comes on the lease: one message if a hold is lost, and its
// end with that of the supervisor.
func (c *Client) watch() {
	var r response
	err := readMessage(c.lease, &r)
	if !errors.Is(err, net.ErrClosed) {
		close(c.lost)
	}
}

// Lost returns a channel that is closed when the supervisor has ended, or what
// it restored was lost before it ran. Only then may [Client.Restore] be tried
// again, and the channel says no more.
func (c *Client) Lost() <-chan struct{} { return c.lost }

// Close ends the connection.
func (c *Client) Close() error {
	var err error
	c.once.Do(func() { err = c.lease.Close() })
	return err
}

// State returns what the supervisor is doing.
func (c *Client) State(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, "state", nil)
}

// Run starts a capsule. It returns once its program has been started.
func (c *Client) Run(ctx context.Context, s RunSpec) error {
	_, err := call[Status](ctx, c, "run", s)
	return err
}

// Prepare makes the workload's cgroup and starts CRIU in it, so that a restore
// begins at once.
func (c *Client) Prepare(ctx context.Context, s PrepareSpec) error {
	_, err := call[Status](ctx, c, "prepare", s)
	return err
}

// Restore restores the workload and returns when it is held. On an error
// nothing of the tree is left, and Restore may be called again with the same
// images. If ctx ends first the restore goes on: ask [Client.State], or [Client.Discard].
func (c *Client) Restore(ctx context.Context, s RestoreSpec) (Hold, error) {
	return call[Hold](ctx, c, "restore", s)
}

// Resume lets a held workload run. It may be called again, by another client
// too, and then answers the same. An [*Error] means that the workload did not
// run and never will from this restore.
func (c *Client) Resume(ctx context.Context) (Resumed, error) {
	return call[Resumed](ctx, c, "resume", nil)
}

// Discard removes a workload that does not run yet, with its cgroup, and ends
// the supervisor. It returns when nothing is left.
func (c *Client) Discard(ctx context.Context) error {
	_, err := call[Status](ctx, c, "discard", nil)
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// MovedAway tells the supervisor on the source that peer has the workload, by
// the migration id: the end of the tree, which the caller brings about next, is
// recorded as a move and not as an exit. An empty peer takes it back.
func (c *Client) MovedAway(ctx context.Context, peer string, id migrate.ID) error {
	_, err := call[Status](ctx, c, "moved", movedArgs{Peer: peer, Migration: id})
	return err
}

type movedArgs struct {
	Peer      string     `json:"peer"`
	Migration migrate.ID `json:"migration"`
}

// StopTimeout is how long a workload may take to end after a signal.
const StopTimeout = 10 * time.Second

// Stop sends sig (default SIGTERM) to the workload's root, kills everything
// after timeout (default [StopTimeout]; negative means at once), and returns how
// it ended.
func (c *Client) Stop(ctx context.Context, timeout time.Duration, sig syscall.Signal) (Exit, error) {
	return call[Exit](ctx, c, "stop", stopArgs{Timeout: timeout, Signal: int(sig)})
}

type stopArgs struct {
	Timeout time.Duration `json:"timeout-ns"`
	Signal  int           `json:"signal"`
}

// Wait returns how the workload ended, once it has. A supervisor ends with its
// workload: if it has already, the error matches [ErrGone], and the workload's
// record tells.
func (c *Client) Wait(ctx context.Context) (Exit, error) {
	return call[Exit](ctx, c, "wait", nil)
}

// AwaitFill returns once the memory of the workload is complete: at once, if it
// was not restored lazily. Until then it must not be dumped. An [*Error] means
// that it never will be, because the workload ended or filling it failed.
func (c *Client) AwaitFill(ctx context.Context) error {
	_, err := call[Status](ctx, c, "await-fill", nil)
	return err
}

// call sends a request and waits for the answer.
func call[T any](ctx context.Context, c *Client, op string, args any) (result T, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			err = fmt.Errorf("supervisor of %s: %s: %w", c.name, op, err)
		}
	}()
	conn, err := c.send(op, args)
	if err != nil {
		return result, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = receive(conn, &result)
	return result, err
}

func (c *Client) send(op string, args any) (*net.UnixConn, error) {
	req := request{Op: op}
	var err error
	if args != nil {
		if req.Args, err = json.Marshal(args); err != nil {
			return nil, err
		}
	}
	conn, err := dial(c.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err := writeMessage(conn, req); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return conn, nil
}

func receive(conn *net.UnixConn, result any) error {
	var resp response
	if err := readMessage(conn, &resp); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	if resp.Failure != nil {
		return &Error{*resp.Failure}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(resp.Result, result)
}
