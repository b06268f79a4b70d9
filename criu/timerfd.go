package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// filesImage holds one entry for each open file of the tree.
const filesImage = "files.img"

// maxFilesImage bounds it; an entry takes some 60 bytes, a path more.
const maxFilesImage = 256 << 20

// RepairTimers rewrites the timer descriptors among the images in dir that CRIU
// would restore wrongly, and returns how many there were. It changes nothing
// the second time. To be called before a restore.
//
// CRIU dumps what /proc/PID/fdinfo shows (proc_pid_fdinfo(5)). A periodic timer
// that has expired and was not read yet, which is what becomes of a fast one
// during a freeze, has no time left there: the kernel sets it anew when it is
// read (fs/timerfd.c). timerfd_settime(2) of no time left stops it for good, so
// it gets one nanosecond; that is when it adds the tick which it has already.
//
// For a timer that was set to an absolute time CRIU adds only the seconds of
// now to what is left (timerfd_arm of pie/restorer.c), so that it could expire a
// second too early; as a relative one it expires in time. One that is to be
// cancelled when the clock is set has to stay absolute.
func RepairTimers(dir string) (int, error) {
	path := filepath.Join(dir, filesImage)
	b, err := readBounded(path, maxFilesImage)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("image of open files: %w", err)
	}
	out, n, err := repairTimers(b)
	if err != nil {
		return 0, fmt.Errorf("image of open files: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	if err := os.WriteFile(path+".new", out, 0o600); err != nil {
		return 0, err
	}
	return n, os.Rename(path+".new", path)
}

// repairTimers leaves every byte of other entries as it is.
func repairTimers(b []byte) (out []byte, repaired int, err error) {
	rest, err := openImage(b, filesMagic)
	if err != nil {
		return nil, 0, err
	}
	out = append(make([]byte, 0, len(b)+16), b[:len(b)-len(rest)]...)
	for len(rest) > 0 {
		var msg []byte
		if msg, rest, err = cutMessage(rest); err != nil {
			return nil, 0, err
		}
		if isTimer(msg) {
			fixed, err := repairTimer(msg)
			if err != nil {
				return nil, 0, err
			}
			if fixed != nil {
				msg, repaired = fixed, repaired+1
			}
		}
		out = appendMessage(out, msg)
	}
	return out, repaired, nil
}

// isTimer looks at the type, which is the first field of an entry: parsing
// thousands of others would take part of the downtime.
func isTimer(entry []byte) bool {
	const typeField = 1 << 3 // number 1, a varint
	if len(entry) < 2 || entry[0] != typeField {
		return false
	}
	kind, n := binary.Uvarint(entry[1:])
	return n > 0 && kind == uint64(fdinfo.FdTypes_TIMERFD)
}

// repairTimer returns nil for one that is right.
func repairTimer(msg []byte) ([]byte, error) {
	var e fdinfo.FileEntry
	if err := proto.Unmarshal(msg, &e); err != nil {
		return nil, err
	}
	if e.Tfd == nil {
		return nil, errors.New("timer without an entry")
	}
	rearmed, relative := rearm(e.Tfd), makeRelative(e.Tfd)
	if !rearmed && !relative {
		return nil, nil
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(&e)
}

// rearm sets a periodic timer that has expired. One without a tick never did: it
// is one that the program has stopped itself.
func rearm(t *timerfd.TimerfdEntry) bool {
	periodic := t.GetIsec() != 0 || t.GetInsec() != 0
	left := t.GetVsec() != 0 || t.GetVnsec() != 0
	if !periodic || left || t.GetTicks() == 0 {
		return false
	}
	t.Vnsec = proto.Uint64(1)
	t.Ticks = proto.Uint64(t.GetTicks() - 1)
	return true
}

func makeRelative(t *timerfd.TimerfdEntry) bool {
	const absolute, cancelOnSet = unix.TFD_TIMER_ABSTIME, unix.TFD_TIMER_CANCEL_ON_SET
	if f := t.GetSettimeFlags(); f&absolute == 0 || f&cancelOnSet != 0 {
		return false
	}
	t.SettimeFlags = proto.Uint32(t.GetSettimeFlags() &^ absolute)
	return true
}
