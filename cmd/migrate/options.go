package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"migrate"
)

// bindOptions adds a flag for each of a move's settings, by its name in
// migrate.Options' JSON form, with its default.
func bindOptions(f *pflag.FlagSet, o *migrate.Options) {
	*o = migrate.Options{}.WithDefaults()
	bindPreCopy(f, o)
	f.StringVar((*string)(&o.ManageCgroupsMode), "manage-cgroups-mode", string(o.ManageCgroupsMode), "CRIU's handling of cgroups: "+join(migrate.CgroupModes))
	f.StringVar((*string)(&o.Clock), "clock", string(o.Clock), "monotonic clocks after the outage: continue (advanced by it) or pause (it is hidden)")
	f.StringVar((*string)(&o.TCP), "tcp", string(o.TCP), "established TCP connections: refuse (they block the move), close, or established (they move with a network namespace of the workload's own)")
	f.StringVar(&o.Compress, "compress", o.Compress, "compression of memory and files: auto, none, s2 or zstd")
	f.Var((*rateFlag)(&o.Bandwidth), "bandwidth", "cap on the wire, such as 100MiB (a second) or 1gbit; 0 is none")
	f.DurationVar(&o.Timeout, "timeout", o.Timeout, "roll back if the commit point is not reached in this time")
	f.DurationVar(&o.FreezeTimeout, "freeze-timeout", o.FreezeTimeout, "roll back if the workload is frozen longer than this")
	f.DurationVar(&o.CommitTimeout, "commit-timeout", o.CommitTimeout, "how long to ask a target that falls silent after the commit before saying \"in doubt\"")
	f.Var((*sizeFlag)(&o.GhostLimit), "ghost-limit", "largest deleted file that is carried along while open")
	f.Var((*pairsFlag)(&o.MapBridge), "map-bridge", "the source's bridge OLD is called NEW on the target, or what a macvlan is on; may be repeated")
	f.StringVar(&o.RuntimeRoot, "runtime-root", "", "`directory` where the container runtime keeps its state, on both hosts (default the runtime's own)")
	f.StringArrayVar(&o.Sync, "sync", nil, "`directory` that goes with the workload, and takes the place of what the target has there; may be repeated")
	f.BoolVar(&o.ShipImage, "ship-image", o.ShipImage, "send lower layers of a container's root file system that the target lacks")
	f.BoolVar(&o.FileLocks, "file-locks", o.FileLocks, "carry file locks along")
}

// bindPreCopy adds the flags of how memory is copied.
func bindPreCopy(f *pflag.FlagSet, o *migrate.Options) {
	f.StringVar((*string)(&o.Tracker), "tracker", string(o.Tracker), "how writes to memory are seen: "+join(migrate.Trackers)+"; none copies it while frozen")
	f.DurationVar(&o.DowntimeLimit, "downtime-limit", o.DowntimeLimit, "copy ahead until the predicted downtime is at most this")
	f.IntVar(&o.MaxRounds, "max-rounds", o.MaxRounds, "rounds of copying ahead, at most")
	f.StringVar((*string)(&o.TimeoutAction), "timeout-action", string(o.TimeoutAction),
		"when the downtime limit cannot be met: auto (freeze once rounds stop helping), suspend or cancel (try until --timeout or --max-rounds ends, then freeze, or roll back)")
	f.Var((*throttleFlag)(&o.AutoConverge), "auto-converge",
		"slow a workload that writes faster than it is copied, by INITIAL percent, STEP more after each round that does not help, at most MAX")
	f.Lookup("auto-converge").NoOptDefVal = "on"
	f.Var((*cacheFlag)(&o.DeltaCache), "delta-cache", "memory for what was sent, to send only what changed of a page: auto (a share of free memory), off, or a size")
	f.IntVar(&o.Streams, "streams", o.Streams, fmt.Sprintf("streams that carry pages side by side, 1 to %d", migrate.MaxStreams))
	f.StringVar((*string)(&o.Restore), "restore", string(o.Restore), "put memory in place before the workload runs on (eager), while it does (lazy), or by its size (auto)")
	f.BoolVar(&o.Verify, "verify", o.Verify, "compare what the target has with the frozen memory before it runs; costs downtime")
}

func join[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = string(v)
	}
	return strings.Join(words, ", ")
}

// checkOptions is Validate for what the command line can hold: there, a zero
// is what somebody wrote and no default.
func checkOptions(o migrate.Options) error {
	if err := o.Validate(); err != nil {
		return usagef("--%w", err)
	}
	if o.GhostLimit == 0 {
		return usagef("--ghost-limit: must not be zero")
	}
	return nil
}

// completeOptions offers the words that options accept.
func completeOptions(cmd *cobra.Command) {
	for name, words := range map[string]string{
		"manage-cgroups-mode": join(migrate.CgroupModes),
		"clock":               "continue, pause",
		"tcp":                 "refuse, close, established",
		"tracker":             join(migrate.Trackers),
		"compress":            "auto, none, s2, zstd",
		"timeout-action":      "auto, suspend, cancel",
		"auto-converge":       "on, off, " + migrate.DefaultThrottle.String(),
		"delta-cache":         "auto, off",
		"restore":             "auto, eager, lazy",
	} {
		completeWords(cmd, name, words)
	}
}

func completeWords(cmd *cobra.Command, flag, words string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(strings.Split(words, ", "), cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(fmt.Sprintf("completion of --%s: %v", flag, err)) // no such flag: a mistake in this program
	}
}
