package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"migrate/criu"
	"migrate/predump"
)

// PreDump implements [predump.PreDumper]: CRIU's pre-dump of one round, whose
// pages go to to.
func (v *move) PreDump(ctx context.Context, round int, to predump.PageSink) error {
	dir := fmt.Sprintf("pre-%d", round)
	if err := os.MkdirAll(filepath.Join(v.images, dir), 0o700); err != nil {
		return err
	}
	o, err := v.dumpOptions()
	if err != nil {
		return err
	}
	ours, theirs, err := criu.PageSocket()
	if err != nil {
		return err
	}
	child, err := v.tool.Start(ctx, criu.ChildOptions{Files: []*os.File{theirs}, Logger: v.log})
	theirs.Close()
	if err != nil {
		ours.Close()
		return err
	}
	served := make(chan error, 1)
	go func() {
		served <- criu.ServePages(ctx, ours, v.tool.Version, &preDumpSink{ctx: ctx, first: v.parent == "", table: v.table, to: to})
	}()
	pre := criu.PreDumpOptions{
		PID: o.PID, ImagesDir: filepath.Join(v.images, dir),
		FreezeCgroup: o.FreezeCgroup, External: o.External, Timeout: o.Timeout, PageSocket: o.PageSocket,
	}
	if v.parent != "" {
		pre.Parent = filepath.Join("..", v.parent)
	}
	err = child.PreDump(ctx, pre)
	ours.Close()
	err = errors.Join(err, <-served, child.Close())
	if err == nil {
		v.parent = dir
	}
	return err
}

// A preDumpSink hands on private memory. Shared memory is left to the final
// dump: what write(2) does to it shows in no page table.
type preDumpSink struct {
	ctx   context.Context
	first bool // no pre-dump came before
	table *predump.Table
	to    predump.PageSink
	buf   []byte
}

// Open implements [criu.PageSink]. Of a task that is new since the last
// pre-dump everything is wanted.
func (s *preDumpSink) Open(im criu.PageImage) (bool, error) {
	return !s.first && s.table.Knows(predump.Image{Type: uint8(im.Type), ID: im.ID}), nil
}

// Extent implements [criu.PageSink].
func (s *preDumpSink) Extent(e criu.Extent, r io.Reader) error {
	if e.Flags&criu.PagePresent == 0 {
		return nil // unchanged
	}
	if s.buf == nil {
		s.buf = make([]byte, 1<<20)
	}
	im := predump.Image{Type: uint8(e.Image.Type), ID: e.Image.ID}
	for left := e.Bytes(); left > 0; {
		data := s.buf[:min(left, uint64(len(s.buf)))]
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if im.Type == predump.TaskImage {
			if err := s.to.Data(s.ctx, im, e.Address, data); err != nil {
				return err
			}
		}
		e.Address += uint64(len(data))
		left -= uint64(len(data))
	}
	return nil
}

// Close implements [criu.PageSink].
func (s *preDumpSink) Close() error { return nil }
