package rootfs

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var seeds = flag.Uint64("seeds", 4, "random trees that TestRandomTrees makes")

// TestRandomTrees makes trees of every kind of entry, changes them at random while
// and between passes, breaks some of the streams, and demands that after the final pass
// both sides are the same.
func TestRandomTrees(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir := t.TempDir()
			src, place := filepath.Join(dir, "src"), filepath.Join(dir, "place")
			if err := os.Mkdir(src, 0o755); err != nil {
				t.Fatal(err)
			}
			s := newShaker(src, seed)
			for range 150 + s.IntN(300) {
				s.shake()
			}
			makeDeep(t, src, 40)
			from, err := NewSender(src, Plain)
			if err != nil {
				t.Fatal(err)
			}
			to := openStage(t, place, Plain)
			for range 2 + s.IntN(3) {
				s.whileShaking(t.Context(), func() { shakyPass(t, s, from, to) })
				for range s.IntN(40) {
					s.shake()
				}
			}
			pass(t, from, to, PassOptions{Final: true})
			sameTrees(t, src, to.Place().Tree())
			if want, have := allocatedIn(t, src), allocatedIn(t, to.Place().Tree()); have > want+want/10+1<<20 {
				t.Errorf("%d bytes are allocated, the source has %d: holes are filled", have, want)
			}
			sc, _ := walk(t.Context(), to.Place().Tree())
			if int(to.entries) != len(sc.entries)-1 {
				t.Errorf("%d entries counted, %d are there", to.entries, len(sc.entries)-1)
			}
			if err := to.Place().Commit(); err != nil {
				t.Fatal(err)
			}
			sameTrees(t, src, place)
		})
	}
}

// shakyPass sends a pass that may be cut off anywhere.
func shakyPass(t *testing.T, s *shaker, from *Sender, to *Stage) {
	var b bytes.Buffer
	if _, err := from.Pass(t.Context(), &b, PassOptions{}); err != nil {
		t.Fatal(err)
	}
	var r io.Reader = &b
	cut := b.Len()%3 == 0
	if cut {
		r = io.LimitReader(&b, int64(b.Len())*int64(b.Len()%7)/7)
	}
	if _, err := to.Apply(t.Context(), r); err != nil && !cut {
		t.Fatal(err)
	}
	if err := from.Settle(to.Position()); err != nil {
		t.Fatal(err)
	}
}

// makeDeep makes a path longer than PATH_MAX with a file at its end.
func makeDeep(t *testing.T, root string, levels int) {
	t.Helper()
	makeChain(t, root, strings.Repeat("deep", 50), levels)
}

func makeChain(t *testing.T, root, name string, levels int) {
	t.Helper()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range levels {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	f, err := unix.Openat(fd, "bottom", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	unix.Write(f, []byte("deep down"))
	unix.Close(f)
	unix.Close(fd)
}
