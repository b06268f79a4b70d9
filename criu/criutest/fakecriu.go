package criutest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"migrate/criu"
)

// fakeMain is the fake's main function; the result is its exit code.
func fakeMain(w world, args []string) int {
	if len(args) > 0 && args[0] == "check" {
		return 0
	}
	if len(args) != 2 || args[0] != "swrk" {
		fmt.Fprintln(os.Stderr, "fake criu: want swrk FD")
		return 1
	}
	fd, err := strconv.Atoi(args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake criu:", err)
		return 1
	}
	conn, err := net.FileConn(os.NewFile(uintptr(fd), "rpc"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake criu:", err)
		return 1
	}
	f := &fakeCRIU{world: w, conn: conn}
	if err := f.serve(); err != nil {
		fmt.Fprintln(os.Stderr, "fake criu:", err)
		return 1
	}
	return 0
}

// fakeCRIU serves one request.
type fakeCRIU struct {
	world world
	conn  net.Conn
	opts  *rpc.CriuOpts
	log   *os.File
}

func (f *fakeCRIU) receive() (*rpc.CriuReq, error) {
	b := make([]byte, 1<<20)
	n, err := f.conn.Read(b)
	if err != nil {
		return nil, err
	}
	req := &rpc.CriuReq{}
	return req, proto.Unmarshal(b[:n], req)
}

func (f *fakeCRIU) send(resp *rpc.CriuResp) error {
	b, err := proto.Marshal(resp)
	if err != nil {
		return err
	}
	_, err = f.conn.Write(b)
	return err
}

func (f *fakeCRIU) serve() error {
	req, err := f.receive()
	if errors.Is(err, io.EOF) {
		return nil // closed unused
	}
	if err != nil {
		return err
	}
	f.opts = req.GetOpts()
	resp := &rpc.CriuResp{Type: req.Type, Success: proto.Bool(true)}
	switch req.GetType() {
	case rpc.CriuReqType_VERSION:
		resp.Version = &rpc.CriuVersion{MajorNumber: proto.Int32(4), MinorNumber: proto.Int32(2), Sublevel: proto.Int32(1)}
	case rpc.CriuReqType_FEATURE_CHECK:
		resp.Features = &rpc.CriuFeatures{MemTrack: proto.Bool(true), LazyPages: proto.Bool(true), PidfdStore: proto.Bool(true)}
	case rpc.CriuReqType_PRE_DUMP:
		f.run(resp, "Pre-dumping", f.preDump)
	case rpc.CriuReqType_DUMP:
		f.run(resp, "Dumping", f.dump)
	case rpc.CriuReqType_RESTORE:
		f.run(resp, "Restoring", func() error {
			pid, err := f.restore()
			resp.Restore = &rpc.CriuRestoreResp{Pid: proto.Int32(int32(pid))}
			return err
		})
	default:
		return fmt.Errorf("request %v is not modelled", req.GetType())
	}
	return f.send(resp)
}

// run does the work with a log like CRIU's.
func (f *fakeCRIU) run(resp *rpc.CriuResp, doing string, work func() error) {
	var err error
	if f.log, err = os.Create(filepath.Join(f.directory(f.opts.GetWorkDirFd()), f.opts.GetLogFile())); err == nil {
		defer f.log.Close()
		fmt.Fprintln(f.log, "(00.000000) Version: fake")
		if err = f.linkParent(); err == nil {
			err = work()
		}
	}
	if err == nil {
		return
	}
	fmt.Fprintf(f.log, "(00.000001) Error (fake.c:1): %v\n(00.000002) Error (fake.c:2): %s FAILED.\n", err, doing)
	resp.Success = proto.Bool(false)
	resp.CrErrmsg = proto.String("the first error of the run")
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		resp.CrErrno = proto.Int32(int32(errno))
	}
}

// linkParent makes the link by which everybody else finds the parent.
func (f *fakeCRIU) linkParent() error {
	if f.opts.GetParentImg() == "" {
		return nil
	}
	return os.Symlink(f.opts.GetParentImg(), filepath.Join(f.images(), "parent"))
}

// directory finds a directory as CRIU does: by the peer's descriptor.
func (f *fakeCRIU) directory(fd int32) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getppid(), fd)
}

func (f *fakeCRIU) images() string { return f.directory(f.opts.GetImagesDirFd()) }

// notify asks one hook. The loss of the peer is a no.
func (f *fakeCRIU) notify(hook criu.Hook, pid int) error {
	err := f.send(&rpc.CriuResp{
		Type: rpc.CriuReqType_NOTIFY.Enum(), Success: proto.Bool(true),
		Notify: &rpc.CriuNotify{Script: proto.String(string(hook)), Pid: proto.Int32(int32(pid))},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", hook, err)
	}
	answer, err := f.receive()
	if err != nil {
		return fmt.Errorf("%s: %w", hook, err)
	}
	if !answer.GetNotifySuccess() {
		return fmt.Errorf("action script %s refused", hook)
	}
	return nil
}

// ownCgroup is the cgroup that the fake itself was moved into, if any.
func (f *fakeCRIU) ownCgroup() string {
	dirs, _ := filepath.Glob(filepath.Join(string(f.world), "cgroup-*"))
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(os.Getpid()) {
			return dir
		}
	}
	return ""
}

// cError is an error in CRIU's words with its number.
type cError struct {
	text  string
	errno syscall.Errno
}

func (e *cError) Error() string { return e.text }
func (e *cError) Unwrap() error { return e.errno }
