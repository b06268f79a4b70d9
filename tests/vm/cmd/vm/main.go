// Command vm starts virtual machines with kernels of their own and migrate in
// them, for people; the tests of package vm start their own. See docs/vm.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"migrate/tests/vm"
	"migrate/tests/vm/guest"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var set string
	c := &cobra.Command{
		Use:   "vm",
		Short: "virtual machines A, B and C, each with a kernel of its own and a migrate agent",
		Example: `  vm up --kernel A=6.1 --kernel B=7.2
  vm exec A -- criu check --feature mem_dirty_track
  vm exec A -- migrate run --name web -- testload --memory 64
  vm exec A -- migrate move capsule:web B
  vm down`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.PersistentFlags().StringVar(&set, "set", "default", "name of the set, of which there can be several")
	c.AddCommand(up(&set), serve(&set), down(&set), status(&set), exec(&set), copyFiles(&set), refresh(&set), console(&set), image(), box(), table())
	return c
}

func exec(set *string) *cobra.Command {
	return &cobra.Command{
		Use: "exec MACHINE -- COMMAND...", Short: "run a command in a machine and end with its status", Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := find(*set, args[0])
			if err != nil {
				return err
			}
			// The command decides what a signal means, so that the context must not.
			signals := make(chan os.Signal, 4)
			signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
			code, err := c.Run(context.Background(), guest.Command{
				Args: args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals,
			})
			if err != nil {
				return err
			}
			os.Exit(code)
			return nil
		},
	}
}

func copyFiles(set *string) *cobra.Command {
	return &cobra.Command{
		Use: "copy FROM... TO", Short: "copy files into or out of a machine: one side is MACHINE:PATH", Args: cobra.MinimumNArgs(2),
		Example: "  vm copy build/migrate A:/usr/local/bin/\n  vm copy A:/var/log/migrate-agent.log .",
		RunE: func(cmd *cobra.Command, args []string) error {
			to := args[len(args)-1]
			for _, from := range args[:len(args)-1] {
				if err := copyOne(cmd.Context(), *set, from, to); err != nil {
					return fmt.Errorf("%s to %s: %w", from, to, err)
				}
			}
			return nil
		},
	}
}

func copyOne(ctx context.Context, set, from, to string) error {
	fromHost, fromPath, isFrom := strings.Cut(from, ":")
	toHost, toPath, isTo := strings.Cut(to, ":")
	if isFrom == isTo {
		return errors.New("one side must be MACHINE:PATH")
	}
	if isTo {
		c, err := find(set, toHost)
		if err != nil {
			return err
		}
		if strings.HasSuffix(toPath, "/") {
			toPath = path.Join(toPath, filepath.Base(from))
		}
		return c.PutFile(ctx, from, toPath)
	}
	c, err := find(set, fromHost)
	if err != nil {
		return err
	}
	if fi, err := os.Stat(to); err == nil && fi.IsDir() {
		to = filepath.Join(to, path.Base(fromPath))
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	return errors.Join(c.Get(ctx, fromPath, f), f.Close())
}

func image() *cobra.Command {
	var fresh bool
	c := &cobra.Command{
		Use: "image", Short: "build the machines' file system and kernels, if there are none, and print where they are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := vm.Defined()
			if err != nil {
				return err
			}
			tree, err := vm.SourceTree()
			if err != nil {
				return err
			}
			im, err := vm.ReadyImage(cmd.Context(), d, tree, fresh, os.Stderr)
			if err != nil {
				return err
			}
			fmt.Println(im.Dir)
			for _, k := range im.Kernels {
				fmt.Printf("%s\t%s\t%s\n", k.Label(), k.Suite, k.Version)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&fresh, "fresh", false, "build it anyway, from the packages of today")
	return c
}

func box() *cobra.Command {
	return &cobra.Command{
		Use: "box", Short: "make what the Vagrantfile needs, and print where it is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := vm.SourceTree()
			if err != nil {
				return err
			}
			dir, err := vm.Box(cmd.Context(), tree, os.Stderr)
			if err == nil {
				fmt.Println(dir)
			}
			return err
		},
	}
}

func table() *cobra.Command {
	return &cobra.Command{
		Use: "table REPORT...", Short: "print reports of test runs (build/vm-report.json) as one table", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var rows []vm.Row
			for _, path := range args {
				more, err := vm.ReadRows(path)
				if err != nil {
					return err
				}
				rows = append(rows, more...)
			}
			fmt.Print(vm.Table(rows))
			return nil
		},
	}
}
