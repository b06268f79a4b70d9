package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// setFile makes fd the file whose content comes next.
func (a *application) setFile(fd, dirfd int, e *entry, size int64) error {
	a.now, a.nowDir, a.entry, a.written, a.charged = fd, dirfd, e, 0, 0
	st, _, err := statAt(fd, "")
	if err != nil {
		return err
	}
	a.before = allocated(&st)
	if size == e.size {
		return nil
	}
	if err := unix.Ftruncate(fd, e.size); err != nil {
		return fmt.Errorf("setting the size to %d bytes: %w", e.size, err)
	}
	return nil
}

// finishFile sets the attributes of the current file, and counts what it takes.
func (a *application) finishFile() error {
	defer a.closeFile()
	_, name := split(a.entry.path)
	st, _, err := statAt(a.now, "")
	if err != nil {
		return err
	}
	a.bytes += allocated(&st) - a.before - a.charged
	return a.writeAttrs(a.nowDir, name, a.entry)
}

// content changes the current file.
func (a *application) content(t frameType, b []byte) error {
	if a.now < 0 {
		return fmt.Errorf("%w: content without a regular file", ErrRefused)
	}
	var err error
	switch t {
	case frameData:
		err = a.data(b)
	case frameReuse:
		err = a.copyOld(b)
	default:
		err = a.punch(b)
	}
	if err != nil {
		return fmt.Errorf("%.200q: %w", a.entry.path, err)
	}
	return nil
}

func (a *application) data(b []byte) error {
	if len(b) <= 8 {
		return fmt.Errorf("%w: Data of %d bytes", ErrRefused, len(b))
	}
	off, data := int64(binary.BigEndian.Uint64(b)), b[8:]
	a.totals.data += uint64(len(data))
	return a.write(off, data)
}

// write writes content, in order of offsets, within the size and the limits.
func (a *application) write(off int64, data []byte) error {
	if off < a.written || off > a.entry.size-int64(len(data)) {
		return fmt.Errorf("%w: %d bytes at %d, out of order or beyond the end at %d", ErrRefused, len(data), off, a.entry.size)
	}
	a.bytes += int64(len(data))
	a.charged += int64(len(data))
	if a.bytes-min(a.charged, a.before) > a.options.Limits.Bytes { // what is overwritten takes no more
		return &FullError{What: FullLimit, Path: a.place.Staging()}
	}
	for len(data) > 0 {
		n, err := unix.Pwrite(a.now, data, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		data, off = data[n:], off+int64(n)
	}
	a.written = off
	return nil
}

// punch makes a hole.
func (a *application) punch(b []byte) error {
	r, ok := parseRange(b)
	if !ok || r.off < a.written || r.end > a.entry.size || a.entry.verb == create {
		return fmt.Errorf("%w: hole from %d to %d", ErrRefused, r.off, r.end)
	}
	err := unix.Fallocate(a.now, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.off, r.end-r.off)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	zeros := make([]byte, blockSize) // where files have no holes
	for off := r.off; off < r.end; off += blockSize {
		if err := a.write(off, zeros[:min(blockSize, r.end-off)]); err != nil {
			return err
		}
	}
	a.written = r.off // data may follow in the hole
	return nil
}

// copyOld copies blocks from the file at the same path in the old tree, which is only
// read. That they are what the source has is checked by their sum.
func (a *application) copyOld(b []byte) error {
	want, err := parseReuse(b)
	if err != nil {
		return err
	}
	if a.entry.verb != create {
		return fmt.Errorf("%w: reuse in a file that is there", ErrRefused)
	}
	if err := a.openOld(); err != nil {
		return err
	}
	if want.index > a.old.size/blockSize {
		return errOldChanged
	}
	a.old.next, a.old.extent = want.index*blockSize, run{}
	var have []sum
	for i := range int64(want.n) {
		b, err := a.old.read()
		if errors.Is(err, io.EOF) || err == nil && b.index != want.index+i {
			return errOldChanged
		}
		if err != nil {
			return fmt.Errorf("reading the old tree: %w", err)
		}
		have = append(have, b.sum)
		if err := a.writeBlock(b); err != nil {
			return err
		}
	}
	if sumOfSums(have) != want.sum {
		return errOldChanged
	}
	return nil
}

func (a *application) writeBlock(b *block) error {
	rest := b.data
	for _, r := range b.runs {
		n := r.end - r.off
		if err := a.write(r.off, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
		a.reused += n
	}
	return nil
}

// errOldChanged is also the error of a source that makes its offers up.
var errOldChanged = fmt.Errorf("%w: the old tree does not have what it is said to have", ErrRefused)

// openOld opens the current file's namesake in the old tree, once.
func (a *application) openOld() error {
	if a.hasOldFD {
		return nil
	}
	var err error
	if a.oldTree == nil {
		a.oldTree, err = openDirs(a.place.Path, true)
	}
	fd, st := -1, stat{}
	if err == nil {
		fd, st, err = a.oldTree.open(a.entry.path)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOldChanged, err)
	}
	a.hasOldFD, a.oldFile, a.old = true, fd, newBlocks(fd, st.size)
	return nil
}

func timespec(s stamp) unix.Timespec { return unix.Timespec{Sec: s.sec, Nsec: int64(s.nsec)} }

// writeAttrs sets all attributes of a file. The order matters: a change of owner clears
// set-ID bits and capabilities, and a change of mode changes an ACL.
func (a *application) writeAttrs(dirfd int, name string, e *entry) error {
	if err := unix.Fchownat(dirfd, name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("setting the owner: %w", err)
	}
	if e.kind != symlink {
		if err := unix.Fchmodat(dirfd, name, uint32(e.mode), 0); err != nil {
			return fmt.Errorf("setting the mode: %w", err)
		}
	}
	if err := a.options.Kind.writeXattrs(dirfd, name, e.xattrs); err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(e.mtime)}
	if err := unix.UtimesNanoAt(dirfd, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("setting the times: %w", err)
	}
	return nil
}

// parseRange reads an offset and a length.
func parseRange(b []byte) (run, bool) {
	if len(b) != 16 {
		return run{}, false
	}
	off, n := int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
	return run{off, off + n}, off >= 0 && n > 0 && off+n > off
}
