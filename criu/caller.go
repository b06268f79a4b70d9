package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// A Caller is a program that started "criu swrk" for a restore and is answered
// by this process in CRIU's place: a container runtime. What it wants of CRIU
// goes into [RestoreOptions].Caller, and it is told the hooks that it has a part
// in. It cannot tell us from CRIU, and loses the restore if we end.
//
// One goroutine uses it, but Close may be called at any time.
type Caller struct {
	conn *net.UnixConn
	opts *rpc.CriuOpts
}

// Answer talks to a program over its end of the RPC socket, sock, which it takes
// over. It says which version CRIU has, and returns once the program asks for a
// restore; or nil, when it asked no more than the version.
func Answer(sock *os.File, v Version) (*Caller, error) {
	conn, err := net.FileConn(sock)
	sock.Close()
	if err != nil {
		return nil, fmt.Errorf("socket of a caller of criu: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("socket of a caller of criu: not a unix socket")
	}
	c := &Caller{conn: unixConn}
	for {
		req, err := c.receive()
		if errors.Is(err, errClosed) {
			c.Close()
			return nil, nil
		}
		if err == nil && req.GetType() == rpc.CriuReqType_RESTORE && req.GetOpts() != nil {
			c.opts = req.GetOpts()
			return c, nil
		}
		if err == nil {
			err = c.send(about(req, v))
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("caller of criu: %w", err)
		}
	}
}

// about answers what is asked beside a restore.
func about(req *rpc.CriuReq, v Version) *rpc.CriuResp {
	resp := &rpc.CriuResp{Type: req.GetType().Enum(), Success: proto.Bool(false)}
	if req.GetType() != rpc.CriuReqType_VERSION {
		resp.CrErrmsg = proto.String("only a restore can be asked for here")
		return resp
	}
	resp.Success = proto.Bool(true)
	resp.Version = &rpc.CriuVersion{
		MajorNumber: proto.Int32(int32(v) / 10000), MinorNumber: proto.Int32(int32(v) / 100 % 100), Sublevel: proto.Int32(int32(v) % 100),
	}
	return resp
}

func (c *Caller) send(resp *rpc.CriuResp) error {
	b, err := proto.Marshal(resp)
	if err != nil {
		return err
	}
	_, err = c.conn.Write(b)
	return closed(err)
}

func (c *Caller) receive() (*rpc.CriuReq, error) {
	b := make([]byte, maxMessage)
	n, err := c.conn.Read(b)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, closed(err)
	}
	req := &rpc.CriuReq{}
	if err := proto.Unmarshal(b[:n], req); err != nil {
		return nil, fmt.Errorf("decoding a request: %w", err)
	}
	return req, nil
}

// Namespaces returns the files of its own that the caller has for namespaces of
// the host, by the names under which the dump knows them, as numbers in the
// process that it started as CRIU.
func (c *Caller) Namespaces() map[string]int {
	files := map[string]int{}
	for _, f := range c.opts.GetInheritFd() {
		if key := f.GetKey(); key == ExternalNet || key == ExternalPID {
			files[key] = int(f.GetFd())
		}
	}
	return files
}

// The names that runtimes have for namespaces which a container was given by
// path.
const (
	ExternalNet = "extRootNetNS"
	ExternalPID = "extRootPidNS"
)

// Cgroups returns the cgroups that the caller wants the restored tree in, by
// controller; "" stands for all that are not named.
func (c *Caller) Cgroups() map[string]string {
	m := map[string]string{}
	for _, r := range c.opts.GetCgRoot() {
		m[r.GetCtrl()] = r.GetPath()
	}
	return m
}

// Root returns the directory that the caller has mounted as the new root.
func (c *Caller) Root() string { return c.opts.GetRoot() }

// Tell asks the caller a hook, as CRIU does, and waits for its yes. A file that
// comes with it is not passed on.
func (c *Caller) Tell(ctx context.Context, ev HookEvent) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	resp := &rpc.CriuResp{
		Type: rpc.CriuReqType_NOTIFY.Enum(), Success: proto.Bool(true),
		Notify: &rpc.CriuNotify{Script: proto.String(string(ev.Hook)), Pid: proto.Int32(int32(ev.PID))},
	}
	err := c.send(resp)
	if err == nil {
		var req *rpc.CriuReq
		if req, err = c.receive(); err == nil && !req.GetNotifySuccess() {
			err = errors.New("it said no")
		}
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("telling the caller of criu about %s: %w", ev.Hook, err)
	}
	return nil
}

// Restored tells the caller that the restore is done and pid is the root of the
// tree.
func (c *Caller) Restored(pid int) error {
	return c.send(&rpc.CriuResp{
		Type: rpc.CriuReqType_RESTORE.Enum(), Success: proto.Bool(true),
		Restore: &rpc.CriuRestoreResp{Pid: proto.Int32(int32(pid))},
	})
}

// Refuse tells the caller that the restore failed.
func (c *Caller) Refuse() error {
	return c.send(&rpc.CriuResp{
		Type: rpc.CriuReqType_RESTORE.Enum(), Success: proto.Bool(false), CrErrno: proto.Int32(int32(unix.ECANCELED)),
	})
}

// Close hangs up.
func (c *Caller) Close() error { return c.conn.Close() }

// base returns the caller's options, of which those that are decided here are
// left out: what its descriptors are numbers of is another process, and a
// configuration file would go before everything that is asked (cr-service.c).
func (c *Caller) base() *rpc.CriuOpts {
	if c == nil {
		return &rpc.CriuOpts{}
	}
	o := proto.Clone(c.opts).(*rpc.CriuOpts)
	o.InheritFd, o.ConfigFile, o.Ps, o.ParentImg, o.StatusFd, o.PidfdStoreSk = nil, nil, nil, nil, nil, nil
	return o
}
