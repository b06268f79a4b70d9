package predump

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	commands["big"] = func([]byte) { fill(anonymous(1<<30/PageSize, unix.PROT_READ|unix.PROT_WRITE), 61) }
	commands["touch"] = func([]byte) { go touch() }
	commands["rate"] = func([]byte) {
		before := touched.Load()
		time.Sleep(2 * time.Second)
		fmt.Println("rate", (touched.Load()-before)/2)
	}
}

var touched atomic.Int64

// touch writes to every page of 256 MiB, over and over.
func touch() {
	b := anonymous(256<<20/PageSize, unix.PROT_READ|unix.PROT_WRITE)
	for v := byte(1); ; v++ {
		for i := 0; i < len(b); i += PageSize {
			b[i] = v
			touched.Add(1)
		}
	}
}

// BenchmarkUffd takes 1 GiB through rounds in which nothing changed, and a
// freeze.
func BenchmarkUffd(b *testing.B) {
	x := startTracked(b, "data")
	x.do(b, "big")
	x.store = nil
	var sink errSink
	round := func(b *testing.B) Stats {
		stats, err := x.tracker.Round(b.Context(), x.tasks, sink)
		if err != nil {
			b.Fatal(err)
		}
		return stats
	}
	begun := time.Now()
	stats := round(b)
	b.Logf("first round: %v, of these %v stopped", time.Since(begun), stats.Stopped)
	b.Run("unchanged", func(b *testing.B) {
		var stopped time.Duration
		begun := used()
		for b.Loop() {
			stopped += round(b).Stopped
		}
		b.ReportMetric(float64((used()-begun).Microseconds())/float64(b.N), "cpu-µs/op")
		b.ReportMetric(float64(stopped.Microseconds())/float64(b.N), "stopped-µs/op")
	})
	b.Run("freeze", func(b *testing.B) {
		begun := used()
		for b.Loop() {
			if _, err := x.tracker.Freeze(b.Context(), x.tasks()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((used()-begun).Microseconds())/float64(b.N), "cpu-µs/op")
	})
	f, err := x.tracker.Freeze(b.Context(), x.tasks())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("clean", func(b *testing.B) {
		for b.Loop() {
			for addr := uint64(0); addr < 1<<47; {
				n, _ := f.Clean(x.tasks()[0].image(), addr, (1<<47-addr)/PageSize)
				addr += n * PageSize
			}
		}
	})
}

// used is the processor time that this process has had, which says more than the
// clock on a machine that is busy.
func used() time.Duration {
	var r unix.Rusage
	must(unix.Getrusage(unix.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkUffdWriter says how many pages a second a process writes to that does
// nothing else, without rounds, with one every 100 ms, and after Close.
func BenchmarkUffdWriter(b *testing.B) {
	x := startTracked(b, "data")
	x.do(b, "touch")
	time.Sleep(time.Second)
	rate := func() (pages float64) {
		fmt.Fprintln(x.load.in, "rate")
		if _, err := fmt.Fscanf(bufio.NewReader(x.out), "rate %g\ndone\n", &pages); err != nil {
			b.Fatal(err)
		}
		return pages
	}
	b.ReportMetric(rate(), "before-pages/s")
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	rounds := 0
	go func() {
		defer close(ended)
		for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
			_, _ = x.tracker.Round(ctx, x.tasks, errSink{}) // ends with an error
			rounds++
		}
	}()
	b.ReportMetric(rate(), "during-pages/s")
	cancel()
	<-ended
	begun := time.Now()
	if err := x.tracker.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(begun).Microseconds()), "close-µs")
	b.ReportMetric(rate(), "after-pages/s")
	b.ReportMetric(float64(rounds), "rounds")
}

// BenchmarkInjection is what a task costs once.
func BenchmarkInjection(b *testing.B) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	time.Sleep(100 * time.Millisecond)
	for b.Loop() {
		fd, err := stealUffd(cmd.Process.Pid)
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(fd)
	}
}
