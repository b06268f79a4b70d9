package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"migrate/tests/vm"
)

func up(set *string) *cobra.Command {
	var o upFlags
	c := &cobra.Command{
		Use: "up", Short: "boot the machines, and leave them running", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := detach(append([]string{"serve", "--set", *set}, o.args()...)); err != nil {
				return err
			}
			return show(*set)
		},
	}
	o.define(c)
	return c
}

// upFlags are those of up, which hands them on to serve.
type upFlags struct {
	hosts   []string
	kernels map[string]string
	memory  int
	bare    bool
}

func (o *upFlags) define(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&o.hosts, "hosts", []string{"A", "B"}, "which of A, B and C")
	f.StringToStringVar(&o.kernels, "kernel", nil, "kernel of a machine, such as A=6.1 (default as in vms.json)")
	f.IntVar(&o.memory, "memory", 0, "`MiB` of each (default as in vms.json)")
	f.BoolVar(&o.bare, "bare", false, "neither certificates nor agents")
}

func (o *upFlags) args() []string {
	args := []string{"--hosts", strings.Join(o.hosts, ","), fmt.Sprintf("--memory=%d", o.memory), fmt.Sprintf("--bare=%t", o.bare)}
	for host, kernel := range o.kernels {
		args = append(args, "--kernel", host+"="+kernel)
	}
	return args
}

// detach runs this program in the background and waits until it says that it
// is ready, by closing its standard output.
func detach(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := osexec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	said, err := io.ReadAll(r)
	if err != nil || string(said) != ready {
		return errors.Join(errors.New("the machines did not start"), err, cmd.Wait())
	}
	return nil
}

const ready = "ready"

// serve owns the machines: they end with it.
func serve(set *string) *cobra.Command {
	var o upFlags
	c := &cobra.Command{
		Use: "serve", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := vm.SourceTree()
			if err != nil {
				return err
			}
			s, err := vm.Start(cmd.Context(), vm.Options{Hosts: o.hosts, Kernels: o.kernels, Memory: o.memory, Bare: o.bare, Root: tree, Log: os.Stderr})
			if err != nil {
				return err
			}
			defer s.Stop()
			remove, err := s.Publish(*set)
			if err != nil {
				return err
			}
			defer remove()
			fmt.Print(ready)
			null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			for fd := range 3 { // who waits for the end of their output need not wait for this process
				if err := syscall.Dup2(int(null.Fd()), fd); err != nil {
					return err
				}
			}
			select {
			case <-cmd.Context().Done():
			case <-s.Ended():
			}
			return nil
		},
	}
	o.define(c)
	return c
}

func down(set *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "end the machines", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return vm.Down(cmd.Context(), *set) },
	}
}

func status(set *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "show the machines", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return show(*set) },
	}
}

func show(set string) error {
	p, err := vm.Open(set)
	if err != nil {
		return err
	}
	for _, m := range p.Machines {
		fmt.Printf("%s\taddress %s\tkernel %s\tqemu %d\tconsole %s\n", m.Name, m.Address, m.Version, m.PID, m.Console)
	}
	return nil
}

func console(set *string) *cobra.Command {
	return &cobra.Command{
		Use: "console MACHINE", Short: "print what a machine's kernel has said", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := find(*set, args[0])
			if err != nil {
				return err
			}
			b, err := os.ReadFile(c.Console)
			_, _ = os.Stdout.Write(b)
			return err
		},
	}
}

func refresh(set *string) *cobra.Command {
	return &cobra.Command{
		Use: "refresh", Short: "build this tree's programs, copy them into the machines and restart the agents", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree, err := vm.SourceTree()
			if err != nil {
				return err
			}
			return vm.Refresh(cmd.Context(), *set, tree)
		},
	}
}

func find(set, name string) (vm.Running, error) {
	p, err := vm.Open(set)
	if err != nil {
		return vm.Running{}, err
	}
	return p.Lookup(name)
}
