package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// show prints medians, and each contender's downtime as a ratio to the first's.
func show(w io.Writer, entries []Entry) {
	fmt.Fprintf(w, "\n%s, medians of %d runs, %d MiB resident\n", entries[0].Scenario, len(entries[0].Downtime), entries[0].RSS>>20)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "contender\ttracker\tdowntime\tratio\tworst\tbefore\tafter\tfrozen\ttotal\twire\twire/RSS\tsource peak\t")
	base := median(entries[0].Downtime)
	for _, e := range entries {
		fmt.Fprintf(t, "%s\t%s\t%.0f ms\t%.3f\t%.0f ms\t%s\t%s\t%.0f ms\t%.0f ms\t%d MiB\t%.2f\t%s\t\n", e.Contender, e.Tracker,
			median(e.Downtime), median(e.Downtime)/base, slices.Max(e.Downtime), stall(e.Before), stall(e.After),
			median(e.Frozen), median(e.Total), median(e.Wire)>>20, float64(median(e.Wire))/float64(e.RSS), peak(e.AgentPeak))
	}
	t.Flush()
	for _, e := range entries {
		if e.Parts != nil {
			fmt.Fprintf(w, "%s %s:", e.Contender, e.Tracker)
			for _, p := range downParts {
				fmt.Fprintf(w, "  %s %.1f ms", p, median(e.Parts[p.String()]))
			}
			fmt.Fprintln(w)
		}
	}
}

func stall(list []float64) string {
	if list == nil {
		return ""
	}
	return fmt.Sprintf("%.0f ms", median(list))
}

func peak(list []uint64) string {
	if list == nil {
		return ""
	}
	return fmt.Sprintf("%d MiB", median(list)>>20)
}

func median[T float64 | uint64](list []T) T {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}
