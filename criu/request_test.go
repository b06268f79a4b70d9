package criu

import (
	"reflect"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"migrate"
)

// wireFields decodes the numeric fields of the encoded options.
func wireFields(t *testing.T, req *rpc.CriuReq) map[protowire.Number]uint64 {
	t.Helper()
	b, err := proto.Marshal(req.GetOpts())
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[protowire.Number]uint64)
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		b = b[n:]
		if kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			got[num] = v
		}
		b = b[protowire.ConsumeFieldValue(num, kind, b):]
	}
	return got
}

// TestCgroupModeOnTheWire holds the promise that "ignore", which is 0, is
// sent: a CRIU that does not see field 34 takes field 24, and moves tasks.
func TestCgroupModeOnTheWire(t *testing.T) {
	const manageCgroups, manageCgroupsMode = 24, 34
	for i, mode := range append([]migrate.CgroupMode{""}, migrate.CgroupModes...) {
		want := uint64(max(0, i-1))
		dump, err := dumpRequest(DumpOptions{PID: 1, ManageCgroupsMode: mode}, directories{})
		if err != nil {
			t.Fatal(err)
		}
		restore, err := restoreRequest(RestoreOptions{ManageCgroupsMode: mode}, directories{})
		if err != nil {
			t.Fatal(err)
		}
		for _, req := range []*rpc.CriuReq{dump, restore} {
			fields := wireFields(t, req)
			if v, ok := fields[manageCgroupsMode]; !ok || v != want {
				t.Errorf("%v %q: field %d = %d, %v, want %d", req.GetType(), mode, manageCgroupsMode, v, ok, want)
			}
			if v, ok := fields[manageCgroups]; !ok || (v != 0) != (want != 0) {
				t.Errorf("%v %q: field %d = %d, %v", req.GetType(), mode, manageCgroups, v, ok)
			}
		}
	}
	if _, err := dumpRequest(DumpOptions{PID: 1, ManageCgroupsMode: "default"}, directories{}); err == nil {
		t.Error(`dumpRequest with cgroup mode "default" = nil, want an error`)
	}
}

func TestDumpRequest(t *testing.T) {
	o := DumpOptions{
		PID: 7, ManageCgroupsMode: "soft", FreezeCgroup: "/sys/fs/cgroup/a",
		TCPEstablished: true, TCPClose: true, ShellJob: true, FileLocks: true, LinkRemap: true, GhostLimit: 9,
		ExtUnixSockets: true, External: []string{"tty[1:2]"}, LeaveRunning: true, OrphanPTSMaster: true,
		Lock: LockNFTables, Timeout: 1500 * time.Millisecond, PageSocket: new(2),
		TrackMem: true, Parent: "../1",
	}
	want := &rpc.CriuReq{Type: rpc.CriuReqType_DUMP.Enum(), Opts: &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(10), WorkDirFd: proto.Int32(11), LogLevel: proto.Int32(4), LogFile: proto.String("dump.log"),
		NotifyScripts: proto.Bool(true), ManageCgroups: proto.Bool(true), ManageCgroupsMode: rpc.CriuCgMode_SOFT.Enum(),
		Pid: proto.Int32(7), TcpEstablished: proto.Bool(true), TcpClose: proto.Bool(true), ShellJob: proto.Bool(true),
		FileLocks: proto.Bool(true), LinkRemap: proto.Bool(true), ExtUnixSk: proto.Bool(true), LeaveRunning: proto.Bool(true),
		OrphanPtsMaster: proto.Bool(true), External: []string{"tty[1:2]"}, FreezeCgroup: proto.String("/sys/fs/cgroup/a"),
		GhostLimit: proto.Uint32(9), Timeout: proto.Uint32(2), Ps: &rpc.CriuPageServerInfo{Fd: proto.Int32(6)},
		NetworkLock: rpc.CriuNetworkLockMethod_NFTABLES.Enum(), TrackMem: proto.Bool(true), ParentImg: proto.String("../1"),
	}}
	got, err := dumpRequest(o, directories{images: 10, work: 11})
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("dumpRequest = %v, %v\nwant %v", got, err, want)
	}
	if _, err := dumpRequest(DumpOptions{}, directories{}); err == nil {
		t.Error("dumpRequest without a PID = nil, want an error")
	}
	for _, o := range []DumpOptions{{PID: 1, TrackMem: true, Parent: "/1"}, {PID: 1, Parent: "../1"}} {
		if _, err := dumpRequest(o, directories{}); err == nil {
			t.Errorf("dumpRequest of %+v = nil, want an error", o)
		}
	}
}

func TestPreDumpRequest(t *testing.T) {
	o := PreDumpOptions{
		PID: 7, Parent: "../1", FreezeCgroup: "/sys/fs/cgroup/a", External: []string{"tty[1:2]"}, Timeout: time.Second, PageSocket: new(0),
	}
	want := &rpc.CriuReq{Type: rpc.CriuReqType_PRE_DUMP.Enum(), Opts: &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(10), WorkDirFd: proto.Int32(11), LogLevel: proto.Int32(4), LogFile: proto.String("pre-dump.log"),
		NotifyScripts: proto.Bool(true), ManageCgroups: proto.Bool(false), ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
		Pid: proto.Int32(7), FreezeCgroup: proto.String("/sys/fs/cgroup/a"), External: []string{"tty[1:2]"}, Timeout: proto.Uint32(1),
		LeaveRunning: proto.Bool(true), TrackMem: proto.Bool(true), ParentImg: proto.String("../1"),
		Ps: &rpc.CriuPageServerInfo{Fd: proto.Int32(4)},
	}}
	got, err := preDumpRequest(o, directories{images: 10, work: 11})
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("preDumpRequest = %v, %v\nwant %v", got, err, want)
	}
}

func TestRestoreRequest(t *testing.T) {
	o := RestoreOptions{
		ManageCgroupsMode: "full", CgroupRoot: "/a", TCPEstablished: true, TCPClose: true,
		ShellJob: true, FileLocks: true, LinkRemap: true, GhostLimit: 9, ExtUnixSockets: true, External: []string{"tty[1:2]"},
		InheritFDs: []InheritFD{{"pipe:[5]", 0}, {"tty[1:2]", 3}}, OrphanPTSMaster: true, Root: "/r", Lock: LockNFTables, Sibling: true, Lazy: true,
	}
	want := &rpc.CriuReq{Type: rpc.CriuReqType_RESTORE.Enum(), Opts: &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(10), WorkDirFd: proto.Int32(11), LogLevel: proto.Int32(4), LogFile: proto.String("restore.log"),
		NotifyScripts: proto.Bool(true), ManageCgroups: proto.Bool(true), ManageCgroupsMode: rpc.CriuCgMode_FULL.Enum(),
		CgRoot: []*rpc.CgroupRoot{{Path: proto.String("/a")}}, TcpEstablished: proto.Bool(true), TcpClose: proto.Bool(true),
		ShellJob: proto.Bool(true), FileLocks: proto.Bool(true), LinkRemap: proto.Bool(true), GhostLimit: proto.Uint32(9),
		ExtUnixSk: proto.Bool(true), External: []string{"tty[1:2]"}, OrphanPtsMaster: proto.Bool(true), Root: proto.String("/r"),
		InheritFd:  []*rpc.InheritFd{{Key: proto.String("pipe:[5]"), Fd: proto.Int32(4)}, {Key: proto.String("tty[1:2]"), Fd: proto.Int32(7)}},
		RstSibling: proto.Bool(true), LazyPages: proto.Bool(true), NetworkLock: rpc.CriuNetworkLockMethod_NFTABLES.Enum(),
	}}
	got, err := restoreRequest(o, directories{images: 10, work: 11})
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("restoreRequest = %v, %v\nwant %v", got, err, want)
	}
}

// TestEveryOptionIsSent fails when an option is added that no request holds.
func TestEveryOptionIsSent(t *testing.T) {
	empty, err := dumpRequest(DumpOptions{PID: 1}, directories{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[DumpOptions]().NumField() {
		var o DumpOptions
		f := reflect.ValueOf(&o).Elem().Field(i)
		name := reflect.TypeFor[DumpOptions]().Field(i).Name
		if !fill(f) || name == "ImagesDir" || name == "WorkDir" { // these are passed as descriptors
			continue
		}
		if name == "ManageCgroupsMode" {
			o.ManageCgroupsMode = "soft"
		}
		if name == "Parent" {
			o.TrackMem = true // TestDumpRequest has both
		}
		o.PID++
		got, err := dumpRequest(o, directories{})
		if err != nil || proto.Equal(got, empty) {
			t.Errorf("DumpOptions.%s changes nothing in the request (%v)", name, err)
		}
	}
	none, err := restoreRequest(RestoreOptions{}, directories{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[RestoreOptions]().NumField() {
		var o RestoreOptions
		f := reflect.ValueOf(&o).Elem().Field(i)
		name := reflect.TypeFor[RestoreOptions]().Field(i).Name
		if !fill(f) || name == "ImagesDir" || name == "WorkDir" {
			continue
		}
		if name == "ManageCgroupsMode" {
			o.ManageCgroupsMode = "soft"
		}
		if name == "Caller" {
			o.Caller.opts = restore().Opts
		}
		got, err := restoreRequest(o, directories{})
		if err != nil || proto.Equal(got, none) {
			t.Errorf("RestoreOptions.%s changes nothing in the request (%v)", name, err)
		}
	}
}

// fill sets f to something that is not its zero value.
func fill(f reflect.Value) bool {
	switch f.Kind() {
	case reflect.Bool:
		f.SetBool(true)
	case reflect.String:
		f.SetString("x")
	case reflect.Int, reflect.Int64:
		f.SetInt(int64(time.Second) / 1000)
	case reflect.Uint32:
		f.SetUint(7)
	case reflect.Pointer:
		f.Set(reflect.New(f.Type().Elem()))
	case reflect.Slice:
		f.Set(reflect.MakeSlice(f.Type(), 1, 1))
	default:
		return false
	}
	return true
}
