package source

import (
	"context"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/criu"
	"migrate/predump"
	"migrate/transport"
)

// discard is a sink of pre-copy that forgets.
type discard struct{}

func (discard) Data(context.Context, predump.Image, uint64, []byte) error { return nil }

func (discard) Zero(context.Context, predump.Image, uint64, uint64) error { return nil }

// BenchmarkFinal is what every page of the final dump costs inside the frozen
// time when the target has it already: from CRIU's socket to a batch that says so.
func BenchmarkFinal(b *testing.B) {
	const size = 64 << 20
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Munmap(memory)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < size; i += 8 {
		*(*uint64)(unsafe.Pointer(&memory[i])) = rng.Uint64()
	}
	table := predump.NewTable()
	tasks := func() []predump.Task { return []predump.Task{{PID: os.Getpid(), VPID: 7}} }
	if _, err := predump.Pass(b.Context(), tasks, table, discard{}); err != nil {
		b.Fatal(err)
	}
	e := criu.Extent{
		Image:   criu.PageImage{Type: criu.TaskImage, ID: 7},
		Address: uint64(uintptr(unsafe.Pointer(&memory[0]))), Pages: 256, Flags: criu.PagePresent,
	}
	b.SetBytes(size)
	for b.Loop() {
		sendAll(b, table, e, memory)
	}
}

func sendAll(b *testing.B, table *predump.Table, e criu.Extent, memory []byte) {
	a, peer := sessions(b)
	out, err := a.OpenPages(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := collect(b.Context(), peer)
		done <- err
	}()
	s := newSender(b.Context(), out, 2, transport.CodecS2)
	ours, theirs, err := criu.PageSocket()
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	version := criu.Version(40201)
	go func() {
		served <- criu.ServePages(b.Context(), ours, version, &finalSink{sender: s, table: table, done: new(atomic.Uint64)})
	}()
	c := criu.NewPageClient(theirs, version)
	if _, err := c.Open(e.Image); err != nil {
		b.Fatal(err)
	}
	for len(memory) > 0 {
		n := e.Pages * pageSize
		if err := c.Extent(e, memory[:n]); err != nil {
			b.Fatal(err)
		}
		memory, e.Address = memory[n:], e.Address+n
	}
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	theirs.Close()
	if err := <-served; err != nil {
		b.Fatal(err)
	}
	if _, err := s.finish(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if s.stats.Unchanged < s.stats.Pages*9/10 {
		b.Fatalf("%d of %d pages were known", s.stats.Unchanged, s.stats.Pages)
	}
}
