package rootfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// smallestOffer is the size of a file, in bytes, below which it is sent sooner than
// found again.
const smallestOffer = 4096

// What a source keeps of an offer. The rest is as if it were not offered.
const (
	maxOfferNames  = 1 << 20
	maxOfferMemory = 256 << 20 // bytes
)

// Offer writes to w what the old tree at the place has, if there is one, for the source to
// compare with: a stream of its own. It reads all of the tree's content.
func (s *Stage) Offer(ctx context.Context, w io.Writer) error {
	f := newFrameWriter(w)
	if err := f.start(start{tree: s.options.Kind, stream: offerStream}); err != nil {
		return err
	}
	o := offer{w: f}
	if err := o.tree(ctx, s.place.Path); err != nil {
		return fmt.Errorf("offering what is at %s: %w", s.place.Path, err)
	}
	return f.finish(totals{ops: o.frames})
}

type offer struct {
	w      *frameWriter
	frames uint64
}

func (o *offer) tree(ctx context.Context, root string) error {
	sc, err := walk(ctx, root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	tree, err := openDirs(root, true)
	if err != nil {
		return err
	}
	defer tree.close()
	for _, e := range sc.entries {
		if e.kind != regular || e.size < smallestOffer || e.blocks == 0 {
			continue
		}
		err := o.file(ctx, tree, e.path)
		if err != nil && !gone(err) {
			return fmt.Errorf("%.200q: %w", e.path, err)
		}
	}
	return nil
}

func (o *offer) file(ctx context.Context, tree *dirs, path string) error {
	fd, st, err := tree.open(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	sums, err := sumsOf(ctx, fd, st.size)
	if err != nil {
		return err
	}
	for len(sums) > 0 {
		n := min(len(sums), maxOffered)
		o.frames++
		if err := o.w.offered(path, sums[:n]); err != nil {
			return err
		}
		sums = sums[n:]
	}
	return nil
}

// sumsOf hashes a file's content.
func sumsOf(ctx context.Context, fd int, size int64) ([]blockSum, error) {
	var list []blockSum
	r := newBlocks(fd, size)
	for {
		b, err := r.read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, b.blockSum)
	}
}

func (w *frameWriter) offered(path string, sums []blockSum) error {
	b := binary.BigEndian.AppendUint16(w.begin(frameOffered), uint16(len(path)))
	b = append(b, path...)
	for _, s := range sums {
		b = appendSum(binary.BigEndian.AppendUint64(b, uint64(s.index)), s.sum)
	}
	return w.end(b)
}

func parseOffered(b []byte) (path string, sums []blockSum, err error) {
	if len(b) < 2 {
		return "", nil, fmt.Errorf("%w: Offered of %d bytes", ErrRefused, len(b))
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) < n || (len(b)-n)%offeredLen != 0 {
		return "", nil, fmt.Errorf("%w: Offered is cut off", ErrRefused)
	}
	path, b = string(b[:n]), b[n:]
	for ; len(b) > 0; b = b[offeredLen:] {
		sums = append(sums, blockSum{int64(binary.BigEndian.Uint64(b)), parseSum(b[8:])})
	}
	return path, sums, checkPath(path)
}

// Offered reads what the target offers, before the first pass. Blocks that it has are
// then not sent. An offer can make a pass fail, if it lies, but not the tree wrong: the
// target checks what it copies.
func (s *Sender) Offered(ctx context.Context, r io.Reader) error {
	f := newFrameReader(r)
	st, err := f.start()
	if err == nil && st.stream != offerStream {
		err = fmt.Errorf("%w: a pass in the place of an offer", ErrRefused)
	}
	if err != nil {
		return fmt.Errorf("reading the target's offer: %w", err)
	}
	s.offered = map[string][]blockSum{}
	var frames uint64
	for memory := 0; ; frames++ {
		t, b, err := f.next()
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil && t == frameEnd {
			return f.finish(b, totals{ops: frames})
		}
		if err == nil && t != frameOffered {
			err = fmt.Errorf("%w: frame of type %#02x in an offer", ErrRefused, uint8(t))
		}
		if err == nil {
			err = s.offer(b, &memory)
		}
		if err != nil {
			s.offered = nil
			return fmt.Errorf("reading the target's offer: %w", err)
		}
	}
}

func (s *Sender) offer(b []byte, memory *int) error {
	path, sums, err := parseOffered(b)
	if err != nil {
		return err
	}
	*memory += len(b)
	if *memory <= maxOfferMemory && len(s.offered) < maxOfferNames {
		s.offered[path] = append(s.offered[path], sums...)
	}
	return nil
}
