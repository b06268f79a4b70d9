package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"migrate/internal/hostinfo"
)

// newManCommand writes man pages, for packages.
func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write the man pages of all commands",
		Hidden: true,
		Args:   exactly("DIRECTORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			each(root, func(c *cobra.Command) {
				c.DisableAutoGenTag = true
				c.Long = manText(c.Long)
			})
			return doc.GenManTree(root, &doc.GenManHeader{
				Title: "MIGRATE", Section: "1", Source: "migrate " + hostinfo.Version(), Manual: "migrate", Date: new(time.Time),
			}, args[0])
		},
	}
}

func each(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		each(sub, f)
	}
}

// manText keeps the lines of lists and tables in a help text, which begin with
// blanks, as they are.
func manText(s string) string {
	var out []string
	before := ""
	for line := range strings.SplitSeq(s, "\n") {
		if strings.HasPrefix(line, "  ") {
			if before != "" && !strings.HasPrefix(before, "  ") {
				out = append(out, "")
			}
			line = "    " + line
		}
		out = append(out, line)
		before = strings.TrimPrefix(line, "    ")
	}
	return strings.Join(out, "\n")
}
