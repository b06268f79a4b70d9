// Command hosts makes isolated hosts on this machine; see package testhost.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"migrate/internal/testhost"
)

// The first goroutine keeps the first thread: whose cgroup namespace that of
// "hosts init" is to be, as others enter a host by its PID.
func init() { runtime.LockOSThread() }

func main() {
	if err := root().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "hosts:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var set string
	c := &cobra.Command{
		Use:   "hosts",
		Short: "isolated hosts A, B and C on one machine, each with a migrate agent",
		Example: `  hosts up --rate 1gbit
  hosts exec A -- migrate move process:123 B
  hosts down`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.PersistentFlags().StringVar(&set, "set", testhost.DefaultSet, "name of the set, of which there can be several")
	c.AddCommand(up(&set), down(&set), status(&set), exec(&set), cut(&set), join(&set), initialize(&set))
	return c
}

func up(set *string) *cobra.Command {
	var o testhost.Options
	c := &cobra.Command{
		Use: "up", Short: "make the hosts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			o.Set = *set
			_, err := testhost.Start(o)
			if err != nil && !errors.Is(err, testhost.ErrRunning) {
				return err
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "hosts:", err)
			}
			return show(o.Set)
		},
	}
	c.Flags().StringVar(&o.Rate, "rate", "", "egress of each host, such as 1gbit (default unshaped)")
	c.Flags().StringSliceVar(&o.Names, "names", []string{"A", "B", "C"}, "names of the hosts")
	c.Flags().BoolVar(&o.NoAgent, "no-agent", false, "start no agents")
	return c
}

func down(set *string) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "down", Short: "remove the hosts and all that is in them", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			names := []string{*set}
			if all {
				names = testhost.Names()
			}
			var errs []error
			for _, name := range names {
				errs = append(errs, testhost.Down(name))
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "every set on this machine")
	return c
}

func status(set *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "show the hosts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return show(*set) },
	}
}

func show(set string) error {
	s, err := testhost.Open(set)
	if err != nil {
		return err
	}
	for _, h := range s.Hosts() {
		link, agent := "cut", "none"
		if h.Linked() {
			link = "up"
		}
		if pid := h.AgentPID(); pid != 0 {
			agent = fmt.Sprint(pid)
		}
		fmt.Printf("%s\taddress %s\tlink %s\tinit %d\tagent %s\tfiles %s\n", h.Name, h.Address(), link, h.InitPID(), agent, h.Dir())
	}
	return nil
}

func exec(set *string) *cobra.Command {
	return &cobra.Command{
		Use: "exec HOST -- COMMAND...", Short: "run a command in a host and end with its status",
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := find(*set, args[0])
			if err != nil {
				return err
			}
			code, err := h.Exec(args[1:])
			if testhost.NotFound(err) {
				fmt.Fprintln(os.Stderr, "hosts:", err)
				os.Exit(127) // as a shell says it
			}
			if err != nil {
				return fmt.Errorf("%s: %w", strings.Join(args[1:], " "), err)
			}
			os.Exit(code)
			return nil
		},
	}
}

func cut(set *string) *cobra.Command {
	return onHost(set, "cut HOST", "take a host's link down", (*testhost.Host).Cut)
}

func join(set *string) *cobra.Command {
	return onHost(set, "join HOST", "take a host's link up again", (*testhost.Host).Join)
}

func onHost(set *string, use, short string, f func(*testhost.Host) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := find(*set, args[0])
			if err != nil {
				return err
			}
			return f(h)
		},
	}
}

func initialize(set *string) *cobra.Command {
	var lastPID int
	c := &cobra.Command{
		Use: "init NAME", Hidden: true, Args: cobra.ExactArgs(1),
		Run: func(_ *cobra.Command, args []string) { testhost.RunInit(*set, args[0], lastPID) },
	}
	c.Flags().IntVar(&lastPID, "last-pid", 0, "last PID not to be used")
	return c
}

func find(set, host string) (*testhost.Host, error) {
	s, err := testhost.Open(set)
	if err != nil {
		return nil, err
	}
	return s.Lookup(host)
}
