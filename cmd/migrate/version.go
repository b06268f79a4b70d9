package main

import (
	"context"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"migrate"
	"migrate/criu"
	"migrate/internal/hostinfo"
)

const versionLong = `Prints the version of this program, and the CRIU that it would use, or why it
finds none that works here.`

const versionExample = `  migrate version
  migrate version --json`

func newVersionCommand(a *app) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print versions",
		Long:    versionLong,
		Example: versionExample,
		Args:    exactly(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions(cmd.Context(), path)
			a.printer().list([]string{"MIGRATE", "GO", "ARCH", "KERNEL", "CRIU"}, []row{v})
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "criu", "", "path of CRIU (default: the first that works; or MIGRATE_CRIU)")
	a.bindJSON(cmd.Flags())
	return cmd
}

// versionRow is this program and what it runs on.
type versionRow struct {
	Type      string           `json:"type"` // always "version"
	Version   string           `json:"version"`
	Go        string           `json:"go"`
	Arch      string           `json:"arch"`
	Kernel    string           `json:"kernel"`
	CRIU      string           `json:"criu,omitempty"` // version; absent without a usable one
	CRIUPath  string           `json:"criu-path,omitempty"`
	CRIUError *migrate.Failure `json:"criu-error,omitempty"` // why there is none
}

func versions(ctx context.Context, path string) versionRow {
	r := versionRow{Type: "version", Version: hostinfo.Version(), Go: runtime.Version(), Arch: runtime.GOARCH}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	tool, err := criu.Find(ctx, path)
	if err != nil {
		f := failureOf(err)
		r.CRIUError = &f
		return r
	}
	r.CRIU, r.CRIUPath = tool.Version.String(), tool.Path
	return r
}

func (r versionRow) cells() []string {
	found := r.CRIU + " " + r.CRIUPath
	if f := r.CRIUError; f != nil {
		found = f.What
		if f.Cause != "" {
			found += ": " + f.Cause
		}
	}
	return []string{r.Version, r.Go, r.Arch, r.Kernel, found}
}
