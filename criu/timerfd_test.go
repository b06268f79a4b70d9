package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

type timer struct{ value, interval, ticks, flags uint64 }

func (t timer) entry() *fdinfo.FileEntry {
	return &fdinfo.FileEntry{
		Type: fdinfo.FdTypes_TIMERFD.Enum(), Id: proto.Uint32(7),
		Tfd: &timerfd.TimerfdEntry{
			Id: proto.Uint32(7), Flags: proto.Uint32(2), Clockid: proto.Uint32(1),
			Fown: &fown.FownEntry{
				Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0),
				PidType: proto.Uint32(0), Pid: proto.Uint32(0),
			},
			Ticks: proto.Uint64(t.ticks), SettimeFlags: proto.Uint32(uint32(t.flags)),
			Vsec: proto.Uint64(t.value / 1e9), Vnsec: proto.Uint64(t.value % 1e9),
			Isec: proto.Uint64(t.interval / 1e9), Insec: proto.Uint64(t.interval % 1e9),
		},
	}
}

func filesWith(t testing.TB, entries ...*fdinfo.FileEntry) []byte {
	t.Helper()
	b := appendMagic(nil, filesMagic)
	for _, e := range entries {
		msg, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b = appendMessage(b, msg)
	}
	return b
}

// otherFile is an entry that must come out as it went in.
func otherFile() *fdinfo.FileEntry {
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(1), Reg: &regfile.RegFileEntry{
		Id: proto.Uint32(1), Flags: proto.Uint32(0), Pos: proto.Uint64(17), Name: proto.String("/x"),
		Fown: timer{}.entry().Tfd.Fown,
	}}
}

func TestRepairTimers(t *testing.T) {
	const absolute, cancelled = unix.TFD_TIMER_ABSTIME, unix.TFD_TIMER_ABSTIME | unix.TFD_TIMER_CANCEL_ON_SET
	for name, c := range map[string]struct{ in, want timer }{
		"runs":               {timer{5e8, 1e9, 0, 0}, timer{5e8, 1e9, 0, 0}},
		"expired once":       {timer{0, 1e6, 1, 0}, timer{1, 1e6, 0, 0}},
		"expired, more":      {timer{0, 3e9, 5, 0}, timer{1, 3e9, 4, 0}},
		"single, expired":    {timer{0, 0, 1, 0}, timer{0, 0, 1, 0}},
		"stopped":            {timer{0, 1e9, 0, 0}, timer{0, 1e9, 0, 0}},
		"never set":          {timer{}, timer{}},
		"absolute":           {timer{5e8, 0, 0, absolute}, timer{5e8, 0, 0, 0}},
		"absolute, expired":  {timer{0, 1e6, 1, absolute}, timer{1, 1e6, 0, 0}},
		"cancelled by a set": {timer{5e8, 0, 0, cancelled}, timer{5e8, 0, 0, cancelled}},
	} {
		out, n, err := repairTimers(filesWith(t, otherFile(), c.in.entry(), otherFile()))
		want := filesWith(t, otherFile(), c.want.entry(), otherFile())
		if err != nil || !bytes.Equal(out, want) || n != 1 && c.in != c.want || n != 0 && c.in == c.want {
			t.Errorf("%s: repairTimers = %x, %d, %v, want %x", name, out, n, err, want)
		}
	}
}

func TestRepairTimersInPlace(t *testing.T) {
	dir := t.TempDir()
	if n, err := RepairTimers(dir); n != 0 || err != nil {
		t.Errorf("RepairTimers without an image = %d, %v", n, err)
	}
	path := filepath.Join(dir, filesImage)
	if err := os.WriteFile(path, filesWith(t, timer{0, 1e6, 1, 0}.entry()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} {
		if n, err := RepairTimers(dir); n != want || err != nil {
			t.Errorf("RepairTimers = %d, %v, want %d", n, err, want)
		}
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, filesWith(t, timer{1, 1e6, 0, 0}.entry())) {
		t.Errorf("the image is %x, %v", b, err)
	}
}

func FuzzRepairTimers(f *testing.F) {
	f.Add(filesWith(f, otherFile(), timer{0, 1e6, 1, 0}.entry()))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, _, err := repairTimers(b)
		if err != nil {
			return
		}
		if _, n, err := repairTimers(out); n != 0 || err != nil {
			t.Errorf("repairTimers of %x, repaired = %d, %v", b, n, err)
		}
	})
}
