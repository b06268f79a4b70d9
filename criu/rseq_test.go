package criu

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	criucore "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/rseq"
	"google.golang.org/protobuf/proto"
)

func TestReadRestartable(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, magic uint32, messages ...proto.Message) {
		b := appendMagic(nil, magic)
		for _, m := range messages {
			msg, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			b = appendMessage(b, msg)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	process := func(pid uint32, threads ...uint32) *pstree.PstreeEntry {
		return &pstree.PstreeEntry{Pid: &pid, Ppid: proto.Uint32(0), Pgid: &pid, Sid: &pid, Threads: append([]uint32{pid}, threads...)}
	}
	thread := func(name string, rseqAt uint64) {
		e := &criucore.CoreEntry{ThreadCore: &criucore.ThreadCoreEntry{}}
		if rseqAt != 0 {
			e.ThreadCore.RseqEntry = &rseq.RseqEntry{RseqAbiPointer: &rseqAt, RseqAbiSize: proto.Uint32(32), Signature: proto.Uint32(1)}
		}
		write(name, coreMagic, e)
	}
	dead := process(11)
	dead.Threads = []uint32{1475916016}
	write("pstree.img", pstreeMagic, process(7, 8, 9), process(10), dead)
	write("core-11.img", coreMagic, &criucore.CoreEntry{})
	thread("core-7.img", 0x7f0000001fe0)
	thread("core-8.img", 0)
	thread("core-9.img", 0x7f0000005020)
	thread("core-10.img", 0x1000)
	got, err := ReadRestartable(dir)
	want := map[uint64][]uint64{7: {0x7f0000001000, 0x7f0000005000}, 10: {0x1000}}
	if err != nil || !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("ReadRestartable() = %x, %v, want %x", got, err, want)
	}
	if err := os.Remove(filepath.Join(dir, "core-9.img")); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadRestartable(dir); err == nil {
		t.Errorf("without an image: %x", got)
	}
}
