package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"migrate/internal/atomicfile"
)

// DigestCache keeps digests of trees that seldom change, such as image layers, as files in a
// directory. It may be used by many at once.
type DigestCache struct {
	Dir string // exists; nobody else writes to it
}

// cached is what one of the files holds.
type cached struct {
	Stats  string `json:"stats"` // a hash of what statx(2) says of all names
	Digest string `json:"digest"`
}

// Digest is as the function of that name, but reads no content if a look at all names finds
// inodes, sizes and times as they were when the tree was digested. That does not find a
// change through a mapping, which no layer in use is subject to.
func (c DigestCache) Digest(ctx context.Context, root string, kind Kind) (string, error) {
	begun := time.Now()
	sc, err := walkWhole(ctx, root, kind)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", root, err)
	}
	key := sha256.Sum256(append([]byte{byte(kind)}, filepath.Clean(root)...))
	file := filepath.Join(c.Dir, hex.EncodeToString(key[:])+".json")
	now := cached{Stats: hashStats(sc)}
	var had cached
	if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &had) == nil && had.Stats == now.Stats {
		return had.Digest, nil
	}
	if now.Digest, err = digestOf(ctx, root, kind, sc); err != nil || changedSince(sc, begun.Add(-settledAfterRound)) {
		return now.Digest, err
	}
	b, err := json.Marshal(now)
	if err == nil {
		err = atomicfile.WriteFile(file, b, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("keeping the digest of %s: %w", root, err)
	}
	return now.Digest, nil
}

// changedSince reports whether a file may have changed, or may yet, without its times telling.
func changedSince(sc *scan, since time.Time) bool {
	for i := range sc.entries {
		if c := sc.entries[i].ctime; time.Unix(c.sec, int64(c.nsec)).After(since) {
			return true
		}
	}
	return false
}

func hashStats(sc *scan) string {
	h := sha256.New()
	var b []byte
	for i := range sc.entries {
		e := &sc.entries[i]
		b = appendText(b[:0], e.path)
		for _, n := range []uint64{e.id.dev, e.id.ino, uint64(e.size), uint64(e.ctime.sec), uint64(e.ctime.nsec), uint64(e.mtime.sec), uint64(e.mtime.nsec)} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		_, _ = h.Write(append(b, byte(e.kind))) // never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}
