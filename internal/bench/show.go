package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// show prints medians, and each contender's downtime as a ratio to the first's.
func show(w io.Writer, entries []Entry) {
	fmt.Fprintf(w, "\n%s, medians of %d runs\n", entries[0].Scenario, len(entries[0].Downtime))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "contender\ttracker\tdowntime\tratio\tworst\tfrozen\ttotal\twire\tsource peak\t")
	base := median(entries[0].Downtime)
	for _, e := range entries {
		fmt.Fprintf(t, "%s\t%s\t%.0f ms\t%.2f\t%.0f ms\t%.0f ms\t%.0f ms\t%d MiB\t%d MiB\t\n", e.Contender, e.Tracker,
			median(e.Downtime), median(e.Downtime)/base, slices.Max(e.Downtime), median(e.Frozen), median(e.Total),
			median(e.Wire)>>20, median(e.AgentPeak)>>20)
	}
	t.Flush()
}

func median[T float64 | uint64](list []T) T {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}
