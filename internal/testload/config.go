package testload

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"time"
)

// ExitFailed is the exit status of a workload that has found an error.
const ExitFailed = 3

// Config is what a workload is made of. The zero value is not usable; the
// defaults are those of [Config.Flags].
type Config struct {
	Memory    int           // MiB
	Fill      Fill          // how well the memory compresses
	Dirty     int           // pages rewritten per second
	Hot       float64       // fraction of the memory that is rewritten, from its start
	Threads   int           // that share the rewriting
	Children  int           // processes joined by pipes
	Dir       string        // for the files; "" makes one that is removed at the end
	Deleted   bool          // of the files, only the deleted one: a target need not have any
	Listen    string        // TCP and UDP address; "" is none
	Tick      time.Duration // between two looks at the clocks
	Heartbeat time.Duration // between lines on standard output; 0 is none
	Seed      uint64        // of the memory's content
}

// Flags defines c's flags and sets c to their defaults.
func (c *Config) Flags(f *flag.FlagSet) {
	f.IntVar(&c.Memory, "memory", 64, "`MiB` of checked memory")
	c.Fill = Mixed
	f.TextVar(&c.Fill, "fill", Mixed, "content of the memory: random, text or mixed")
	f.IntVar(&c.Dirty, "dirty", 0, "`pages` rewritten per second")
	f.Float64Var(&c.Hot, "hot", 1, "`fraction` of the memory that is rewritten")
	f.IntVar(&c.Threads, "threads", 2, "threads that share the rewriting")
	f.IntVar(&c.Children, "children", 1, "child processes joined by pipes")
	f.StringVar(&c.Dir, "dir", "", "`directory` for files (default one that is removed at the end)")
	f.BoolVar(&c.Deleted, "only-deleted", false, "of the files, have only the deleted one, which need not be on the target")
	f.StringVar(&c.Listen, "listen", "", "`address` that answers over TCP and UDP, such as 127.0.0.1:7001")
	f.DurationVar(&c.Tick, "tick", 5*time.Millisecond, "`time` between two looks at the clocks, the accuracy of the downtime that is seen; a short one costs processor time")
	f.DurationVar(&c.Heartbeat, "heartbeat", 0, "`time` between lines on standard output")
	f.Uint64Var(&c.Seed, "seed", 1, "of the memory's content")
}

func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Memory > 0, "memory: %d MiB", c.Memory)
	check(slices.Contains(fills, c.Fill), "fill: %q is not one of %q", c.Fill, fills)
	check(c.Dirty >= 0, "dirty: %d pages per second", c.Dirty)
	check(c.Hot > 0 && c.Hot <= 1, "hot: %g is not above 0 and at most 1", c.Hot)
	check(c.Threads > 0, "threads: %d", c.Threads)
	check(c.Children >= 0, "children: %d", c.Children)
	check(c.Tick > 0, "tick: %s", c.Tick)
	check(c.Heartbeat >= 0, "heartbeat: %s", c.Heartbeat)
	return errors.Join(errs...)
}
