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
	f.StringVar((*string)(&o.ManageCgroupsMode), "manage-cgroups-mode", string(o.ManageCgroupsMode), "CRIU's handling of cgroups: "+join(migrate.CgroupModes))
	f.StringVar((*string)(&o.Clock), "clock", string(o.Clock), "monotonic clocks after the outage: continue (advanced by it) or pause (it is hidden)")
	f.StringVar((*string)(&o.TCP), "tcp", string(o.TCP), "established TCP connections: refuse (they block the move) or close")
	f.StringVar((*string)(&o.Tracker), "tracker", string(o.Tracker), "how memory is copied ahead of the freeze: auto, hash, or none (stop-and-copy only)")
	f.StringVar(&o.Compress, "compress", o.Compress, "compression of pages: auto, none, s2 or zstd")
	f.Var((*rateFlag)(&o.Bandwidth), "bandwidth", "cap on the wire, such as 100MiB (a second) or 1gbit; 0 is none")
	f.DurationVar(&o.Timeout, "timeout", o.Timeout, "roll back if the commit point is not reached in this time")
	f.DurationVar(&o.FreezeTimeout, "freeze-timeout", o.FreezeTimeout, "roll back if the workload is frozen longer than this")
	f.DurationVar(&o.CommitTimeout, "commit-timeout", o.CommitTimeout, "how long to ask a target that falls silent after the commit before saying \"in doubt\"")
	f.Var((*sizeFlag)(&o.GhostLimit), "ghost-limit", "largest deleted file that is carried along while open")
	f.BoolVar(&o.FileLocks, "file-locks", o.FileLocks, "carry file locks along")
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
		"tcp":                 "refuse, close",
		"tracker":             "auto, hash, none",
		"compress":            "auto, none, s2, zstd",
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
