package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
)

// Dump dumps a tree. It returns once CRIU has answered: the tree is then
// killed (or runs on, with LeaveRunning); after an error it runs, or is
// frozen with its cgroup as before.
//
// hook answers CRIU's questions; nil says yes to all. When it returns an
// error, the dump is called off, and that error is the result. When ctx ends,
// the socket is closed, CRIU undoes the dump, and the result holds ctx's cause.
// Once [PostDump] was answered with yes, ctx no longer matters: CRIU's answer
// is waited for, at most [ExitGrace]. Errors of CRIU's own are an [*Error].
func (c *Child) Dump(ctx context.Context, o DumpOptions, hook HookFunc) error {
	dirs, work, done, err := openDirectories(o.ImagesDir, o.WorkDir)
	if err != nil {
		return fmt.Errorf("criu dump: %w", err)
	}
	defer done()
	if c.list {
		l, err := c.beginListing(&o, hook)
		if err != nil {
			return fmt.Errorf("criu dump: %w", err)
		}
		defer func() {
			if err := l.end(); err != nil { // after a refusal; a good dump has removed it before
				c.log.Warn("the parent of a listing dump is left", "error", err)
			}
		}()
		hook = l.ask
	}
	if o.Parent != "" && o.PageSocket != nil {
		hook = unlinkParent(o.ImagesDir, hook)
	}
	o.Lock = c.tool.Version.lock(o.Lock)
	req, err := dumpRequest(o, dirs)
	if err != nil {
		return fmt.Errorf("criu dump: %w", err)
	}
	log := filepath.Join(work, req.GetOpts().GetLogFile())
	_, err = c.call(ctx, "dump", req, log, hook)
	return err
}

// unlinkParent removes the link to the parent before the caller's hook ships the
// images: a restore would follow it, and the page server has all pages.
func unlinkParent(images string, hook HookFunc) HookFunc {
	if hook == nil {
		hook = yes
	}
	return func(ctx context.Context, ev HookEvent) error {
		if ev.Hook == PostDump {
			if err := os.RemoveAll(filepath.Join(images, parentLink)); err != nil {
				return err
			}
		}
		return hook(ctx, ev)
	}
}

// PreDump gives the page server every page that changed since o.Parent, or
// every page, and has the kernel note from then on what changes. The tree is
// held while CRIU looks for them, and runs again while they are sent: those that
// change meanwhile may be sent as they were or as they are, and the next dump
// has them again. [ServePages] gets runs that did not change with PageParent
// alone. It takes a pipe for every MiB or two.
//
// When ctx ends, the socket is closed and the child waited for; the tree runs.
// Errors of CRIU's own are an [*Error].
func (c *Child) PreDump(ctx context.Context, o PreDumpOptions) error {
	dirs, work, done, err := openDirectories(o.ImagesDir, o.WorkDir)
	if err != nil {
		return fmt.Errorf("criu pre-dump: %w", err)
	}
	defer done()
	req, err := preDumpRequest(o, dirs)
	if err != nil {
		return fmt.Errorf("criu pre-dump: %w", err)
	}
	log := filepath.Join(work, req.GetOpts().GetLogFile())
	_, err = c.call(ctx, "pre-dump", req, log, nil)
	return err
}

// Restore restores a tree and returns the PID of its root, in CRIU's PID
// namespace, once the tree runs. Hooks and ctx work as in [Child.Dump], with
// [PostRestore] as the hook that decides; a restore that is called off in [PostRestore] or earlier leaves no task, but
// with Sibling the caller must reap the root.
func (c *Child) Restore(ctx context.Context, o RestoreOptions, hook HookFunc) (rootPID int, err error) {
	dirs, work, done, err := openDirectories(o.ImagesDir, o.WorkDir)
	if err != nil {
		return 0, fmt.Errorf("criu restore: %w", err)
	}
	defer done()
	o.Lock = c.tool.Version.lock(o.Lock)
	req, err := restoreRequest(o, dirs)
	if err != nil {
		return 0, fmt.Errorf("criu restore: %w", err)
	}
	log := filepath.Join(work, req.GetOpts().GetLogFile())
	resp, err := c.call(ctx, "restore", req, log, hook)
	return int(resp.GetRestore().GetPid()), err
}

// call sends req, answers hooks until CRIU's own answer comes, and turns a
// refusal into an [*Error] with the end of the log file.
func (c *Child) call(ctx context.Context, op string, req *rpc.CriuReq, log string, hook HookFunc) (*rpc.CriuResp, error) {
	if c.list && op != "dump" {
		return nil, fmt.Errorf("criu %s: the child was started to list the pages of a dump", op)
	}
	x := &exchange{child: c, hook: hook}
	x.stop = context.AfterFunc(ctx, func() { c.sock.close() })
	defer x.stop()
	start := time.Now()
	resp, err := x.run(ctx, req)
	c.log.Debug("criu answered", "op", op, "success", resp.GetSuccess(), "elapsed", time.Since(start))
	switch {
	case resp.GetSuccess() && err == nil && x.refusal == nil:
		return resp, nil
	case resp.GetSuccess() && err == nil: // refused too late for CRIU to give up
		return resp, fmt.Errorf("criu %s went on: %w", op, x.refusal)
	case ctx.Err() != nil && !x.decided:
		return nil, errors.Join(fmt.Errorf("criu %s: %w", op, x.cancelled(ctx)), c.Close())
	case err != nil:
		return nil, errors.Join(x.refusal, c.lost(op, err, log))
	case x.refusal != nil:
		return nil, fmt.Errorf("criu %s: %w", op, x.refusal)
	}
	return nil, c.refused(op, resp, log)
}

// exchange is one request with the hooks that belong to it.
type exchange struct {
	child   *Child
	hook    HookFunc
	stop    func() bool // keeps the end of ctx from closing the socket; false if it has already
	decided bool        // a deciding hook was answered with yes, so ctx no longer matters
	refusal error       // joins what hooks refused
}

func (x *exchange) run(ctx context.Context, req *rpc.CriuReq) (*rpc.CriuResp, error) {
	sock := x.child.sock
	if err := sock.send(req); err != nil {
		return nil, err
	}
	for {
		if x.decided {
			sock.expire(time.Now().Add(ExitGrace))
		}
		resp, file, err := sock.receive()
		if err != nil {
			return nil, err
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			if file != nil {
				file.Close()
			}
			return resp, checkType(req, resp)
		}
		n := resp.GetNotify()
		ok := x.ask(ctx, HookEvent{Hook: Hook(n.GetScript()), PID: int(n.GetPid()), File: file})
		if err := sock.send(&rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: &ok}); err != nil {
			return nil, err
		}
	}
}

// ask asks the hook function. A yes to a hook that decides takes ctx out of
// the game first: were the socket closed after that yes, nobody could tell
// whether CRIU still acted on it.
func (x *exchange) ask(ctx context.Context, ev HookEvent) bool {
	x.child.log.Debug("criu hook", "hook", string(ev.Hook), "pid", ev.PID)
	err := x.hook.call(ctx, ev)
	if err == nil && ev.Hook.decides() && !x.decided {
		if x.stop() {
			x.decided = true
		} else {
			err = fmt.Errorf("%s hook: %w", ev.Hook, context.Cause(ctx))
		}
	}
	x.refusal = errors.Join(x.refusal, err)
	return err == nil
}

// cancelled is ctx's cause, once, with what hooks refused.
func (x *exchange) cancelled(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(x.refusal, cause) {
		return x.refusal
	}
	return errors.Join(cause, x.refusal)
}

// checkType refuses an answer to another question. CRIU answers EMPTY to a
// request that it could not read.
func checkType(req *rpc.CriuReq, resp *rpc.CriuResp) error {
	if resp.GetType() != req.GetType() && resp.GetSuccess() {
		return fmt.Errorf("criu answered %v to a request of type %v", resp.GetType(), req.GetType())
	}
	return nil
}

// refused is the error for an answer that says no.
func (c *Child) refused(op string, resp *rpc.CriuResp, log string) error {
	return newError(op, syscall.Errno(resp.GetCrErrno()), c.logLines(log), resp.GetCrErrmsg())
}

// lost is the error for a child that went away or talked nonsense.
func (c *Child) lost(op string, err error, log string) error {
	closeErr := c.Close()
	if !errors.Is(err, errClosed) {
		return errors.Join(fmt.Errorf("criu %s: %w", op, err), closeErr)
	}
	msg := errClosed.Error()
	if c.exitErr != nil {
		msg += ": " + c.exitErr.Error()
	}
	return errors.Join(newError(op, 0, c.logLines(log), msg), closeErr)
}

// logLines reads CRIU's log; what it printed before it had one stands in.
func (c *Child) logLines(log string) []string {
	if lines := readLog(log); len(lines) > 0 {
		return lines
	}
	return c.stderr.lines()
}

// openDirectories opens both directories for CRIU, and returns the one that
// the log is in. done closes them; they must be open until CRIU has answered.
func openDirectories(images, work string) (d directories, workDir string, done func(), err error) {
	work = cmp.Or(work, images)
	i, err := openDirectory(images)
	if err != nil {
		return d, "", nil, fmt.Errorf("images directory: %w", err)
	}
	w, err := openDirectory(work)
	if err != nil {
		i.Close()
		return d, "", nil, fmt.Errorf("work directory: %w", err)
	}
	return directories{images: int(i.Fd()), work: int(w.Fd())}, work, func() { i.Close(); w.Close() }, nil
}

func openDirectory(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
}
