package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// digestVersion is part of every digest, and changes with what is digested.
const digestVersion = "migrate tree 1\n"

// Digest returns a SHA-256, in hexadecimal, of the tree at root: two trees with the same
// digest show a workload the same files. It covers every name with its kind, owner,
// permissions, content, link target, device number and carried extended attributes.
//
// It leaves out times, as tools that unpack an image set those of directories as they come;
// which names share a file; where the holes are; and sockets. The tree must not change
// meanwhile.
func Digest(ctx context.Context, root string, kind Kind) (string, error) {
	sc, err := walkWhole(ctx, root, kind)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", root, err)
	}
	return digestOf(ctx, root, kind, sc)
}

// walkWhole walks a tree that must have nothing mounted in it.
func walkWhole(ctx context.Context, root string, kind Kind) (*scan, error) {
	if err := kind.check(); err != nil {
		return nil, err
	}
	sc, err := walk(ctx, root)
	if err == nil && len(sc.mounts) > 0 {
		err = fmt.Errorf("%w: at %.200q", ErrMount, sc.mounts[0])
	}
	return sc, err
}

func digestOf(ctx context.Context, root string, kind Kind, sc *scan) (string, error) {
	sums, err := contentDigests(ctx, root, sc.entries)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", root, err)
	}
	tree, err := openDirs(root, true)
	if err != nil {
		return "", err
	}
	defer tree.close()
	h := sha256.New()
	_, _ = io.WriteString(h, digestVersion) // a hash never fails
	for i := range sc.entries {
		if err := digestEntry(h, tree, &sc.entries[i], kind, sums[i]); err != nil {
			return "", fmt.Errorf("digest of %s: %.200q: %w", root, sc.entries[i].path, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// digestEntry adds one name. The root's is empty.
func digestEntry(h hash.Hash, tree *dirs, e *found, kind Kind, content []byte) error {
	fd, name, err := tree.at(e.path)
	if err != nil {
		return err
	}
	a := e.attrs()
	if e.kind == symlink {
		if a.target, err = readLink(fd, name); err != nil {
			return err
		}
	}
	if a.xattrs, _, err = kind.readXattrs(fd, name); err != nil {
		return err
	}
	b := appendText(nil, e.path)
	b = append(b, byte(a.kind))
	b = binary.BigEndian.AppendUint16(b, a.mode)
	for _, n := range []uint32{a.uid, a.gid, a.rdev.major, a.rdev.minor} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(a.size))
	b = appendText(b, a.target)
	b = binary.BigEndian.AppendUint32(b, uint32(len(a.xattrs)))
	for _, x := range a.xattrs {
		b = appendText(appendText(b, x.name), x.value)
	}
	_, _ = h.Write(append(b, content...)) // never fails
	return nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// contentDigests returns the digest of each regular file, some at a time.
func contentDigests(ctx context.Context, root string, entries []found) ([][]byte, error) {
	sums := make([][]byte, len(entries))
	workers := runtime.NumCPU()
	g, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		g.Go(func() error {
			tree, err := openDirs(root, true)
			if err != nil {
				return err
			}
			defer tree.close()
			for i := w; i < len(entries); i += workers {
				if entries[i].kind != regular {
					continue
				}
				if sums[i], err = contentDigest(ctx, tree, entries[i].path); err != nil {
					return fmt.Errorf("%.200q: %w", entries[i].path, err)
				}
			}
			return nil
		})
	}
	return sums, g.Wait()
}

// contentDigest hashes the blocks of a file that are not all zeros, each with its index.
func contentDigest(ctx context.Context, tree *dirs, path string) ([]byte, error) {
	fd, st, err := tree.open(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	h := sha256.New()
	r := newBlocks(fd, st.size)
	flat := make([]byte, blockSize)
	for {
		b, err := r.read()
		if errors.Is(err, io.EOF) {
			return h.Sum(nil), nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return nil, err
		}
		data := b.flatten(flat, st.size)
		if isZero(data) {
			continue
		}
		var index [8]byte
		binary.BigEndian.PutUint64(index[:], uint64(b.index))
		_, _ = h.Write(index[:]) // never fails
		_, _ = h.Write(data)
	}
}

// flatten returns the block's content with zeros for its holes, in buf.
func (b *block) flatten(buf []byte, size int64) []byte {
	if b.whole(size) {
		return b.data
	}
	off := b.index * blockSize
	buf = buf[:min(blockSize, size-off)]
	clear(buf)
	rest := b.data
	for _, r := range b.runs {
		n := copy(buf[r.off-off:r.end-off], rest)
		rest = rest[n:]
	}
	return buf
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// FileDigest is to one regular file what [Digest] is to a tree, without extended
// attributes. A link is followed.
func FileDigest(ctx context.Context, path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	tree, err := openDirs(filepath.Dir(real), true)
	if err != nil {
		return "", err
	}
	defer tree.close()
	st, _, err := statAt(unix.AT_FDCWD, real)
	if err != nil {
		return "", fmt.Errorf("looking at %s: %w", path, err)
	}
	content, err := contentDigest(ctx, tree, filepath.Base(real))
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", path, err)
	}
	b := binary.BigEndian.AppendUint64([]byte(digestVersion), uint64(st.size))
	for _, n := range []uint32{uint32(st.mode), st.uid, st.gid} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	sum := sha256.Sum256(append(b, content...))
	return hex.EncodeToString(sum[:]), nil
}
