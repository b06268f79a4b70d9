package criu

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"migrate"
)

// An askingRuntime is what a test has in place of a program that started CRIU.
type askingRuntime struct {
	t    *testing.T
	conn net.Conn
}

// newRuntime returns a runtime, and the end of its socket that CRIU gets.
func newRuntime(t *testing.T) (askingRuntime, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "runtime")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return askingRuntime{t, conn}, os.NewFile(uintptr(fds[1]), "criu")
}

func (r askingRuntime) send(req *rpc.CriuReq) {
	r.t.Helper()
	b, err := proto.Marshal(req)
	if err == nil {
		_, err = r.conn.Write(b)
	}
	if err != nil {
		r.t.Error(err)
	}
}

func (r askingRuntime) receive() *rpc.CriuResp {
	r.t.Helper()
	b := make([]byte, maxMessage)
	n, err := r.conn.Read(b)
	resp := &rpc.CriuResp{}
	if err == nil {
		err = proto.Unmarshal(b[:n], resp)
	}
	if err != nil {
		r.t.Error(err)
	}
	return resp
}

// restore is what a runtime asks for, with what is only a number in its child.
func restore() *rpc.CriuReq {
	return &rpc.CriuReq{
		Type: rpc.CriuReqType_RESTORE.Enum(), NotifySuccess: proto.Bool(true),
		Opts: &rpc.CriuOpts{
			ImagesDirFd: proto.Int32(3), Root: proto.String("/run/c/rootfs"), ConfigFile: proto.String("/etc/criu/runc.conf"),
			ParentImg: proto.String("../parent"), StatusFd: proto.Int32(9), Ps: &rpc.CriuPageServerInfo{},
			ManageCgroupsMode: rpc.CriuCgMode_SOFT.Enum(),
			InheritFd: []*rpc.InheritFd{
				{Key: proto.String(ExternalNet), Fd: proto.Int32(7)}, {Key: proto.String("pipe:[5]"), Fd: proto.Int32(0)},
			},
			External: []string{"mnt[proc]:x"},
			ExtMnt:   []*rpc.ExtMountMap{{Key: proto.String("/data"), Val: proto.String("/srv/data")}, {Key: proto.String("/sys/fs/cgroup"), Val: proto.String("/sys/fs/cgroup")}},
			CgRoot:   []*rpc.CgroupRoot{{Path: proto.String("/web")}, {Ctrl: proto.String("cpu"), Path: proto.String("/web-cpu")}},
		},
	}
}

func answered(t *testing.T) (askingRuntime, *Caller) {
	t.Helper()
	r, sock := newRuntime(t)
	r.send(restore())
	c, err := Answer(sock, 40201)
	if err != nil || c == nil {
		t.Fatalf("Answer = %v, %v", c, err)
	}
	t.Cleanup(func() { c.Close() })
	return r, c
}

// TestAnswer has a runtime ask for the version, for something else, and for a
// restore.
func TestAnswer(t *testing.T) {
	r, sock := newRuntime(t)
	r.send(&rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()})
	r.send(&rpc.CriuReq{Type: rpc.CriuReqType_DUMP.Enum(), Opts: restore().Opts})
	r.send(restore())
	c, err := Answer(sock, 40201)
	if err != nil || c == nil {
		t.Fatalf("Answer = %v, %v", c, err)
	}
	defer c.Close()
	v := r.receive()
	if v.GetType() != rpc.CriuReqType_VERSION || !v.GetSuccess() || v.Version.GetMajorNumber() != 4 || v.Version.GetMinorNumber() != 2 || v.Version.GetSublevel() != 1 {
		t.Errorf("the version: %v", v)
	}
	if d := r.receive(); d.GetType() != rpc.CriuReqType_DUMP || d.GetSuccess() || d.GetCrErrmsg() == "" {
		t.Errorf("a dump: %v", d)
	}
	if c.Root() != "/run/c/rootfs" {
		t.Errorf("Root = %q", c.Root())
	}
	if n := c.Namespaces(); len(n) != 1 || n[ExternalNet] != 7 {
		t.Errorf("Namespaces = %v", n)
	}
	if g := c.Cgroups(); len(g) != 2 || g[""] != "/web" || g["cpu"] != "/web-cpu" {
		t.Errorf("Cgroups = %v", g)
	}
}

// TestAnswerEnds has callers that ask for no restore.
func TestAnswerEnds(t *testing.T) {
	r, sock := newRuntime(t)
	r.send(&rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()})
	r.conn.Close()
	if c, err := Answer(sock, 40201); c != nil {
		t.Errorf("a caller that hung up: %v, %v", c, err)
	}
	r, sock = newRuntime(t)
	if _, err := r.conn.Write([]byte("no request")); err != nil {
		t.Fatal(err)
	}
	if c, err := Answer(sock, 40201); c != nil || err == nil {
		t.Errorf("garbage: %v, %v, want an error", c, err)
	}
}

func TestTell(t *testing.T) {
	r, c := answered(t)
	for _, yes := range []bool{true, false} {
		go func() {
			if n := r.receive().GetNotify(); n.GetScript() != string(PostRestore) || n.GetPid() != 77 {
				t.Errorf("the caller heard %v", n)
			}
			r.send(&rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(yes)})
		}()
		if err := c.Tell(t.Context(), HookEvent{Hook: PostRestore, PID: 77}); (err == nil) != yes {
			t.Errorf("told yes %v: %v", yes, err)
		}
	}
	if err := c.Restored(77); err != nil {
		t.Fatal(err)
	}
	if resp := r.receive(); resp.GetType() != rpc.CriuReqType_RESTORE || !resp.GetSuccess() || resp.Restore.GetPid() != 77 {
		t.Errorf("in the end it heard %v", resp)
	}
}

// TestTellCancelled has a caller that never answers.
func TestTellCancelled(t *testing.T) {
	_, c := answered(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no more")
	cancel(cause)
	if err := c.Tell(ctx, HookEvent{Hook: SetupNamespaces, PID: 1}); !errors.Is(err, cause) {
		t.Errorf("Tell = %v", err)
	}
}

// TestCallersRestore demands that what a caller asked for goes to CRIU, but for
// what would be wrong there or is decided here: the cgroup mode, in each of its six
// values.
func TestCallersRestore(t *testing.T) {
	_, c := answered(t)
	for i, mode := range migrate.CgroupModes {
		req, err := restoreRequest(RestoreOptions{
			Caller: c, ManageCgroupsMode: mode, Root: "/run/m/root", EmptyNet: true, External: []string{"tty[1:2]"},
			Mounts: []ExternalMount{
				{Key: "/data", Value: "/other"}, {Key: "/etc/hosts", Value: "/srv/hosts"}, {Key: "/sys/fs/cgroup", Value: "/sys/fs/cgroup/web", Own: true},
			},
		}, directories{images: 5, work: 6})
		if err != nil {
			t.Fatal(err)
		}
		o := req.GetOpts()
		if o.GetManageCgroupsMode() != rpc.CriuCgMode(i) || o.ManageCgroupsMode == nil || o.GetManageCgroups() != (i != 0) {
			t.Errorf("cgroup mode %s: %v, %v", mode, o.ManageCgroupsMode, o.GetManageCgroups())
		}
		if o.GetRoot() != "/run/m/root" || o.GetImagesDirFd() != 5 || o.GetWorkDirFd() != 6 || o.GetEmptyNs() != unix.CLONE_NEWNET {
			t.Errorf("what is decided here: %v", o)
		}
		if o.ConfigFile != nil || o.ParentImg != nil || o.StatusFd != nil || o.Ps != nil || len(o.InheritFd) != 0 {
			t.Errorf("what is wrong here was passed on: %v", o)
		}
		got := map[string]string{}
		for _, m := range o.ExtMnt {
			got[m.GetKey()] = m.GetVal()
		}
		if len(got) != 3 || got["/data"] != "/srv/data" || got["/etc/hosts"] != "/srv/hosts" || got["/sys/fs/cgroup"] != "/sys/fs/cgroup/web" {
			t.Errorf("mounts: %v", got)
		}
		if len(o.External) != 2 || len(o.CgRoot) != 2 {
			t.Errorf("the caller's own: %v, %v", o.External, o.CgRoot)
		}
	}
	if o := restore().Opts; !proto.Equal(c.opts, o) {
		t.Errorf("the caller's options were changed: %v", c.opts)
	}
}
