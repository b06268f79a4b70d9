package main

import (
	"fmt"
	"time"

	"migrate"
	"migrate/internal/testload"
)

func printReport(r migrate.Report) {
	for _, p := range r.Phases {
		fmt.Printf("  %-14s %10s  from %s\n", p.Name, p.Duration, p.Start)
	}
	fmt.Printf("  memory         %10s  as %s on the wire\n", mib(r.MemoryBytes), mib(r.Transferred))
	fmt.Printf("  total          %10s\n", r.TotalTime)
	fmt.Printf("  frozen         %10s\n", r.FrozenTime)
	fmt.Printf("  downtime       %10s  by the report\n", r.Downtime)
}

// printClocks says what the workload saw of the move.
func printClocks(r migrate.Report, before, after testload.Status) {
	fmt.Printf("  downtime       %10s  as the workload saw it, of which its monotonic clock shows %s\n",
		millis(after.Gap), millis(after.GapMono))
	fmt.Printf("  clock          %10s  policy, error bound %s\n", r.Clock.Policy, time.Duration(r.Clock.Bound))
	printClock("monotonic", before.Mono, after.Mono)
	printClock("boottime", before.Boot, after.Boot)
	printClock("wall clock", before.Realtime, after.Realtime)
	fmt.Printf("  checked        %10d  pages of memory so far, %d records, %d numbers over pipes: no error\n",
		after.PagesChecked, after.Appended, after.PipeSeq)
}

func printClock(name string, before, after int64) {
	fmt.Printf("  %-14s %d.%09d s before, %d.%09d s after, %s on\n",
		name, before/1e9, before%1e9, after/1e9, after%1e9, time.Duration(after-before).Round(100*time.Microsecond))
}

func mib(bytes uint64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func millis(ms float64) string { return fmt.Sprintf("%.1fms", ms) }
