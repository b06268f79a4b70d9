package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// scripted is a child whose part is played by the test.
func scripted(t *testing.T, peer func(*net.UnixConn)) *Child {
	t.Helper()
	c, err := Tool{Path: "/bin/true", Version: 40201}.Start(t.Context(), ChildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.sock.close()
	sock, theirs, err := newSocket()
	if err != nil {
		t.Fatal(err)
	}
	c.sock = sock
	conn, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		b := make([]byte, maxMessage)
		if _, err := conn.Read(b); err == nil { // the request
			peer(conn.(*net.UnixConn))
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func sendAnswer(conn *net.UnixConn, resp *rpc.CriuResp, fds ...int) {
	b, err := proto.Marshal(resp)
	if err != nil {
		panic(err)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	conn.WriteMsgUnix(b, oob, nil)
}

// ask sends one hook and returns what was answered.
func ask(conn *net.UnixConn, hook string, fds ...int) bool {
	sendAnswer(conn, &rpc.CriuResp{
		Type: rpc.CriuReqType_NOTIFY.Enum(), Success: proto.Bool(true),
		Notify: &rpc.CriuNotify{Script: proto.String(hook), Pid: proto.Int32(5)},
	}, fds...)
	b := make([]byte, maxMessage)
	n, err := conn.Read(b)
	if err != nil {
		return false
	}
	req := &rpc.CriuReq{}
	return proto.Unmarshal(b[:n], req) == nil && req.GetType() == rpc.CriuReqType_NOTIFY && req.GetNotifySuccess()
}

func dumpAnswer(ok bool) *rpc.CriuResp {
	return &rpc.CriuResp{Type: rpc.CriuReqType_DUMP.Enum(), Success: proto.Bool(ok)}
}

func dumpOf(t *testing.T) DumpOptions { return DumpOptions{PID: 1, ImagesDir: t.TempDir()} }

func TestUnknownHookIsRefused(t *testing.T) {
	answer := make(chan bool, 1)
	c := scripted(t, func(conn *net.UnixConn) {
		answer <- ask(conn, "pre-coffee")
		sendAnswer(conn, dumpAnswer(false))
	})
	err := c.Dump(t.Context(), dumpOf(t), func(context.Context, HookEvent) error { return nil })
	if yes := <-answer; err == nil || !strings.Contains(err.Error(), "pre-coffee") || yes {
		t.Errorf("Dump = %v, answer %v, want an error and no", err, yes)
	}
}

func TestHookGetsFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fd := int(w.Fd())
	c := scripted(t, func(conn *net.UnixConn) {
		ask(conn, string(OrphanPTSMaster), fd)
		sendAnswer(conn, dumpAnswer(true))
	})
	err = c.Dump(t.Context(), dumpOf(t), func(_ context.Context, ev HookEvent) error {
		if ev.File == nil || ev.PID != 5 {
			return fmt.Errorf("event %+v", ev)
		}
		defer ev.File.Close()
		flags, err := unix.FcntlInt(ev.File.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("the file is not close-on-exec (%v)", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestBadAnswers(t *testing.T) {
	open := 0
	for name, test := range map[string]struct {
		peer func(*net.UnixConn)
		want string
	}{
		"no answer":     {func(*net.UnixConn) {}, "without an answer"},
		"not a message": {func(conn *net.UnixConn) { conn.Write([]byte{0xff, 0xff}) }, "decoding"},
		"too many files": {func(conn *net.UnixConn) {
			sendAnswer(conn, dumpAnswer(true), 0, 0, 0, 0, 0, 0, 0, 0)
		}, "files in one message"},
		"two files": {func(conn *net.UnixConn) { sendAnswer(conn, dumpAnswer(true), 0, 0) }, "2 files"},
		"other answer": {func(conn *net.UnixConn) {
			sendAnswer(conn, &rpc.CriuResp{Type: rpc.CriuReqType_RESTORE.Enum(), Success: proto.Bool(true)})
		}, "to a request of type DUMP"},
	} {
		t.Run(name, func(t *testing.T) {
			err := scripted(t, test.peer).Dump(t.Context(), dumpOf(t), nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Dump = %v, want %q", err, test.want)
			}
		})
		if n := openFiles(t); n > open && open != 0 {
			t.Errorf("%s: %d files open, %d before", name, n, open)
		} else {
			open = n // the first one also opens what the runtime keeps
		}
	}
	if _, err := parseAnswer(nil, unix.MSG_TRUNC); err == nil {
		t.Error("parseAnswer of a truncated message = nil, want an error")
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// TestTooLateToRefuse covers hooks that CRIU does not heed.
func TestTooLateToRefuse(t *testing.T) {
	c := scripted(t, func(conn *net.UnixConn) {
		ask(conn, string(PreResume))
		sendAnswer(conn, &rpc.CriuResp{
			Type: rpc.CriuReqType_RESTORE.Enum(), Success: proto.Bool(true), Restore: &rpc.CriuRestoreResp{Pid: proto.Int32(7)},
		})
	})
	o := RestoreOptions{ImagesDir: t.TempDir()}
	pid, err := c.Restore(t.Context(), o, func(context.Context, HookEvent) error { return errors.New("no") })
	if pid != 7 || err == nil || !strings.Contains(err.Error(), "went on") {
		t.Errorf("Restore = %d, %v, want 7 and an error that says CRIU went on", pid, err)
	}
}

// TestCancelAfterDecision: once post-dump was answered with yes, the end of
// the context must not hide that the dump succeeded.
func TestCancelAfterDecision(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := scripted(t, func(conn *net.UnixConn) {
		if ask(conn, string(PostDump)) {
			cancel()
			sendAnswer(conn, dumpAnswer(true))
		}
	})
	if err := c.Dump(ctx, dumpOf(t), nil); err != nil {
		t.Errorf("Dump = %v, want nil", err)
	}
}

func TestCancelBeforeDecision(t *testing.T) {
	cause := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	answer := make(chan bool, 1)
	c := scripted(t, func(conn *net.UnixConn) { answer <- ask(conn, string(PostDump)) })
	err := c.Dump(ctx, dumpOf(t), func(context.Context, HookEvent) error {
		cancel(cause)
		return nil
	})
	if yes := <-answer; !errors.Is(err, cause) || yes {
		t.Errorf("Dump = %v, answer %v, want %v and no yes", err, yes, cause)
	}
}

// TestChildThatCannotRun has what the program printed as the cause.
func TestChildThatCannotRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "criu")
	script := "#!/bin/sh\necho 'error while loading shared libraries' >&2; exit 127\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Find(t.Context(), path)
	e, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(strings.Join(e.Log, " "), "shared libraries") || e.Advice == "" {
		t.Errorf("Find = %v, want a *Error with the program's words", err)
	}
}

func TestCheckFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "criu")
	script := "#!/bin/sh\necho 'Error (criu/kerndat.c:1): Could not initialize kernel features detection.' >&2; exit 1\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	e, ok := errors.AsType[*Error](Tool{Path: path, Version: 31701}.Check(t.Context()))
	if !ok || !strings.Contains(e.What, "3.17.1 fails") || !strings.Contains(e.Cause, "kernel") || !strings.Contains(e.Advice, "scripts/setup") {
		t.Errorf("Check = %+v, want a *Error with version, cause and advice", e)
	}
}

func TestFindMissing(t *testing.T) {
	_, err := Find(t.Context(), filepath.Join(t.TempDir(), "criu"))
	e, ok := errors.AsType[*Error](err)
	if !ok || e.What != "criu is not installed" || e.Advice == "" {
		t.Errorf("Find = %v, want a *Error that says it is not installed", err)
	}
}

func TestTooOld(t *testing.T) {
	e, ok := errors.AsType[*Error](Tool{Path: "/x/criu", Version: 31600}.supported())
	if !ok || !strings.Contains(e.Cause, "3.16") || !strings.Contains(e.Cause, "3.17") || e.Advice == "" {
		t.Errorf("supported of 3.16 = %+v, want both versions named", e)
	}
	if err := (Tool{Version: MinVersion}).supported(); err != nil {
		t.Errorf("supported of %v = %v", MinVersion, err)
	}
}

func TestVersion(t *testing.T) {
	for v, want := range map[Version]string{40201: "4.2.1", 31700: "3.17", 40100: "4.1"} {
		if got := v.String(); got != want {
			t.Errorf("Version(%d) = %q, want %q", int(v), got, want)
		}
	}
}

// TestErrorNamesMissing: CRIU does not say which instructions this CPU lacks.
func TestErrorNamesMissing(t *testing.T) {
	e := &Error{What: "x", Cause: "lacks"}
	e.nameMissing([]string{"avx2", "avx512f"})
	if e.Error() != "x: lacks: avx2, avx512f" {
		t.Errorf("Error = %q", e)
	}
}
