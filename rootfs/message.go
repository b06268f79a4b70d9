package rootfs

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"
)

// Lengths of the fixed parts of payloads, in bytes, and counts.
const (
	startLen      = 4 + 2 + 1 + 1 + 4 + 4
	entryLen      = 1 + 1 + 2 + 4 + 4 + 8 + 4 + 8 + 4 + 4 + 4 + 2 + 2 + 2
	reuseLen      = 8 + 4 + 16
	endLen        = 8 + 8 + 16
	offeredLen    = 8 + 16
	maxXattrCount = 4096
	maxOffered    = 4096 // blocks in one Offered frame
	maxTarget     = 4095 // of a symbolic link, PATH_MAX without its NUL
	maxReuse      = 64   // blocks in one Reuse frame
)

// What a stream is.
const (
	passStream  = 1
	finalStream = 2 // a pass over a frozen tree
	offerStream = 3
)

// start is the first frame.
type start struct {
	tree   Kind
	stream uint8
	pass   uint32 // 0 for an offer
}

func (w *frameWriter) start(s start) error {
	b := append(w.begin(frameStart), magic...)
	b = binary.BigEndian.AppendUint16(b, Version)
	b = append(b, byte(s.tree), s.stream)
	b = binary.BigEndian.AppendUint32(b, s.pass)
	return w.end(binary.BigEndian.AppendUint32(b, blockSize))
}

// start reads the first frame.
func (r *frameReader) start() (start, error) {
	t, b, err := r.next()
	if err != nil {
		return start{}, err
	}
	if t != frameStart || len(b) != startLen || string(b[:4]) != magic {
		return start{}, fmt.Errorf("%w: not a stream of files", ErrRefused)
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != Version {
		return start{}, fmt.Errorf("%w: stream of version %d, this host reads version %d", ErrRefused, v, Version)
	}
	s := start{Kind(b[6]), b[7], binary.BigEndian.Uint32(b[8:])}
	if n := binary.BigEndian.Uint32(b[12:]); n != blockSize {
		return start{}, fmt.Errorf("%w: blocks of %d bytes", ErrRefused, n)
	}
	if s.stream < passStream || s.stream > offerStream {
		return start{}, fmt.Errorf("%w: stream of type %d", ErrRefused, s.stream)
	}
	return s, s.tree.check()
}

func (w *frameWriter) remove(path string) error {
	return w.end(append(w.begin(frameRemove), path...))
}

func (w *frameWriter) take(slot uint32, path string) error {
	b := binary.BigEndian.AppendUint32(w.begin(frameTake), slot)
	return w.end(append(b, path...))
}

func parseTake(b []byte) (slot uint32, path string, err error) {
	if len(b) < 4 {
		return 0, "", fmt.Errorf("%w: Take of %d bytes", ErrRefused, len(b))
	}
	return binary.BigEndian.Uint32(b), string(b[4:]), nil
}

// verb says what an Entry does. The values go over the wire.
type verb uint8

const (
	create verb = 1 // a file that is not there
	update verb = 2 // the attributes, and for a regular file the content that differs
	place  verb = 3 // a file that a Take put aside: name it, then as update
	link   verb = 4 // one more name of a file
)

// entry is the payload of an Entry frame.
type entry struct {
	verb verb
	path string
	slot uint32 // of place
	to   string // of link: another name of the file; nothing of attrs but the kind counts
	attrs
}

func (w *frameWriter) entry(e *entry) error {
	b := append(w.begin(frameEntry), byte(e.verb), byte(e.kind))
	b = binary.BigEndian.AppendUint16(b, e.mode)
	b = binary.BigEndian.AppendUint32(b, e.uid)
	b = binary.BigEndian.AppendUint32(b, e.gid)
	b = binary.BigEndian.AppendUint64(b, uint64(e.mtime.sec))
	b = binary.BigEndian.AppendUint32(b, e.mtime.nsec)
	b = binary.BigEndian.AppendUint64(b, uint64(e.size))
	b = binary.BigEndian.AppendUint32(b, e.rdev.major)
	b = binary.BigEndian.AppendUint32(b, e.rdev.minor)
	b = binary.BigEndian.AppendUint32(b, e.slot)
	other := e.target
	if e.verb == link {
		other = e.to
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.path)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(other)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.xattrs)))
	b = append(append(b, e.path...), other...)
	for _, x := range e.xattrs {
		b = append(b, byte(len(x.name)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(x.value)))
		b = append(append(b, x.name...), x.value...)
	}
	return w.end(b)
}

// parseEntry reads the payload of an Entry frame. The entry keeps nothing of b.
func parseEntry(b []byte) (*entry, error) {
	if len(b) < entryLen {
		return nil, fmt.Errorf("%w: Entry of %d bytes", ErrRefused, len(b))
	}
	e := &entry{verb: verb(b[0])}
	e.kind, e.mode = entryKind(b[1]), binary.BigEndian.Uint16(b[2:])
	e.uid, e.gid = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	e.mtime = stamp{int64(binary.BigEndian.Uint64(b[12:])), binary.BigEndian.Uint32(b[20:])}
	e.size = int64(binary.BigEndian.Uint64(b[24:]))
	e.rdev = device{binary.BigEndian.Uint32(b[32:]), binary.BigEndian.Uint32(b[36:])}
	e.slot = binary.BigEndian.Uint32(b[40:])
	path, other := int(binary.BigEndian.Uint16(b[44:])), int(binary.BigEndian.Uint16(b[46:]))
	count := int(binary.BigEndian.Uint16(b[48:]))
	b = b[entryLen:]
	if len(b) < path+other || count > maxXattrCount {
		return nil, fmt.Errorf("%w: Entry is cut off", ErrRefused)
	}
	e.path = string(b[:path])
	if e.verb == link {
		e.to = string(b[path : path+other])
	} else {
		e.target = string(b[path : path+other])
	}
	var err error
	e.xattrs, err = parseXattrs(b[path+other:], count)
	return e, err
}

func parseXattrs(b []byte, count int) ([]xattr, error) {
	var list []xattr
	for range count {
		if len(b) < 5 {
			return nil, fmt.Errorf("%w: extended attribute is cut off", ErrRefused)
		}
		name, value := int(b[0]), int(binary.BigEndian.Uint32(b[1:]))
		b = b[5:]
		if len(b) < name || len(b)-name < value || value > maxXattrValue {
			return nil, fmt.Errorf("%w: extended attribute is cut off", ErrRefused)
		}
		list = append(list, xattr{string(b[:name]), string(b[name : name+value])})
		b = b[name+value:]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes too many in an Entry", ErrRefused, len(b))
	}
	for i := range list {
		if i > 0 && list[i-1].name >= list[i].name {
			return nil, fmt.Errorf("%w: extended attributes out of order", ErrRefused)
		}
	}
	return list, nil
}

func (w *frameWriter) data(off int64, data []byte) error {
	b := binary.BigEndian.AppendUint64(w.begin(frameData), uint64(off))
	return w.end(append(b, data...))
}

func (w *frameWriter) hole(r run) error {
	b := binary.BigEndian.AppendUint64(w.begin(frameHole), uint64(r.off))
	return w.end(binary.BigEndian.AppendUint64(b, uint64(r.end-r.off)))
}

// reuse stands for n blocks from an index on, all of which the old tree has at the same
// place of the file at the same path. The sum is over theirs.
type reuse struct {
	index int64
	n     uint32
	sum   sum
}

func (w *frameWriter) reuse(r reuse) error {
	b := binary.BigEndian.AppendUint64(w.begin(frameReuse), uint64(r.index))
	b = binary.BigEndian.AppendUint32(b, r.n)
	return w.end(appendSum(b, r.sum))
}

func parseReuse(b []byte) (reuse, error) {
	if len(b) != reuseLen {
		return reuse{}, fmt.Errorf("%w: Reuse of %d bytes", ErrRefused, len(b))
	}
	r := reuse{int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:]), parseSum(b[12:])}
	if r.index < 0 || r.n == 0 || r.n > maxReuse {
		return reuse{}, fmt.Errorf("%w: Reuse of %d blocks", ErrRefused, r.n)
	}
	return r, nil
}

func appendSum(b []byte, s sum) []byte {
	bytes := s.Bytes()
	return append(b, bytes[:]...)
}

func parseSum(b []byte) sum {
	return sum{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
}

// sumOfSums folds the sums of blocks into one.
func sumOfSums(list []sum) sum {
	b := make([]byte, 0, 16*len(list))
	for _, s := range list {
		b = appendSum(b, s)
	}
	return xxh3.Hash128(b)
}

// totals are what an End frame says.
type totals struct {
	ops  uint64 // Remove, Take, Entry and Offered frames
	data uint64 // bytes in Data frames
}

func (w *frameWriter) finish(t totals) error {
	whole := w.whole.Sum128()
	b := binary.BigEndian.AppendUint64(w.begin(frameEnd), t.ops)
	b = binary.BigEndian.AppendUint64(b, t.data)
	if err := w.end(appendSum(b, whole)); err != nil {
		return err
	}
	if err := w.w.Flush(); err != nil {
		w.err = fmt.Errorf("sending files: %w", err)
	}
	return w.err
}

// finish compares an End frame with what was read.
func (r *frameReader) finish(b []byte, have totals) error {
	if len(b) != endLen {
		return fmt.Errorf("%w: End of %d bytes", ErrRefused, len(b))
	}
	want := totals{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	if want != have || parseSum(b[16:]) != r.whole.Sum128() {
		return fmt.Errorf("%w: the stream is not what was sent: %+v arrived of %+v", ErrRefused, have, want)
	}
	return nil
}
