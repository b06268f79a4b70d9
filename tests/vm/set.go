package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Options are those of a set of machines.
type Options struct {
	Hosts   []string                 // names in vms.json (default A and B)
	Kernels map[string]string        // by host: a label, release or version (default as in vms.json)
	Memory  int                      // MiB of each (default as in vms.json)
	CPU     map[string]string        // by host: model under emulation (default as in vms.json)
	Uptime  map[string]time.Duration // by host: for how long it seems to have been up before it booted
	Systemd []string                 // hosts that systemd is the first process of
	Bare    bool                     // neither certificates nor agents
	Root    string                   // of the source tree
	Log     io.Writer                // progress, and boots that are tried again
}

// Set is some machines on one bridge.
type Set struct {
	Machines []*Machine
	netns    *netns
	dir      string
	bare     bool
}

// Start boots machines. The set ends with [Set.Stop], or with the process.
func Start(ctx context.Context, o Options) (_ *Set, err error) {
	d, err := Defined()
	if err != nil {
		return nil, err
	}
	if o.Memory > 0 {
		d.Memory = o.Memory
	}
	if len(o.Hosts) == 0 {
		o.Hosts = []string{"A", "B"}
	}
	hosts, err := d.pick(o.Hosts)
	if err != nil {
		return nil, err
	}
	im, err := ReadyImage(ctx, d, o.Root, false, o.Log)
	if err != nil {
		return nil, err
	}
	bin, err := buildPrograms(ctx, o.Root)
	if err != nil {
		return nil, err
	}
	s := &Set{bare: o.Bare}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "migrate-vm"); err != nil {
		return nil, err
	}
	if s.netns, err = newNetns(); err != nil {
		return nil, err
	}
	if err := s.network(d, hosts); err != nil {
		return nil, err
	}
	if err := s.bootAll(ctx, d, hosts, im, bin, o); err != nil {
		return nil, err
	}
	return s, provision(ctx, s.Guests(), bin, s.dir, o.Bare)
}

// Guests are the machines to be spoken to.
func (s *Set) Guests() (guests []Guest) {
	for _, m := range s.Machines {
		guests = append(guests, m.Guest)
	}
	return guests
}

// Ended is closed when one of the machines has ended.
func (s *Set) Ended() <-chan struct{} {
	one := make(chan struct{})
	var once sync.Once
	for _, m := range s.Machines {
		go func() { <-m.ended; once.Do(func() { close(one) }) }()
	}
	return one
}

// RestartAgent restarts the agent of one machine.
func (s *Set) RestartAgent(ctx context.Context, m *Machine) error {
	if err := stopAgent(ctx, m.Guest); err != nil {
		return err
	}
	return startAgent(ctx, m.Guest, s.Guests())
}

func (s *Set) network(d Definition, hosts []Host) error {
	errs := []error{
		s.netns.ip("link", "set", "lo", "up"),
		s.netns.ip("link", "add", "br0", "type", "bridge"),
		s.netns.ip("address", "add", d.Network, "dev", "br0"),
		s.netns.ip("link", "set", "br0", "up"),
	}
	for _, h := range hosts {
		errs = append(errs,
			s.netns.ip("tuntap", "add", linkName(h), "mode", "tap"),
			s.netns.ip("link", "set", linkName(h), "master", "br0", "up"))
	}
	return errors.Join(errs...)
}

// bootAll boots the machines side by side, each that panics once more.
func (s *Set) bootAll(ctx context.Context, d Definition, hosts []Host, im Image, bin string, o Options) error {
	for _, h := range hosts {
		if name := o.Kernels[h.Name]; name != "" {
			h.Kernel = name
		}
		k, err := im.Kernel(h.Kernel)
		if err != nil {
			return err
		}
		s.Machines = append(s.Machines, &Machine{Guest: Guest{Host: h}, Kernel: k, link: linkName(h), console: filepath.Join(s.dir, h.Name+".console")})
	}
	var wg sync.WaitGroup
	errs := make([]error, len(s.Machines))
	for i, m := range s.Machines {
		d := d
		if cpu := o.CPU[m.Name]; cpu != "" {
			d.CPU = cpu
		}
		wg.Go(func() { errs[i] = s.bootOne(ctx, m, d, im, bin, o) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Set) bootOne(ctx context.Context, m *Machine, d Definition, im Image, bin string, o Options) error {
	initrd := filepath.Join(s.dir, m.Name+".initrd")
	if err := writeInitrd(initrd, m.Kernel, filepath.Join(bin, "guest"), ""); err != nil {
		return err
	}
	args := arguments(d, m.Host, m.Kernel, im, initrd, m.console, o.Uptime[m.Name], slices.Contains(o.Systemd, m.Name))
	err := m.boot(ctx, s.netns, args)
	if errors.Is(err, errPanic) {
		fmt.Fprintf(o.Log, "vm: %s panicked and is booted a second time; it said:\n%s\n", m.Name, tail(m.Console(), 40))
		err = m.boot(ctx, s.netns, args)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(m.Console(), 60))
	}
	return nil
}

// Machine returns the machine of a name that the set was started with.
func (s *Set) Machine(name string) *Machine {
	for _, m := range s.Machines {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// Cut takes the link of a machine down, outside of it: it sees no change but
// that nothing arrives.
func (s *Set) Cut(m *Machine) error { return s.netns.ip("link", "set", m.link, "down") }

// Join takes it up again.
func (s *Set) Join(m *Machine) error { return s.netns.ip("link", "set", m.link, "up") }

// Stop ends the machines; their network goes with the namespace. It can be
// called more than once.
func (s *Set) Stop() {
	for _, m := range s.Machines {
		if m.cmd != nil && m.cmd.Process != nil {
			m.stop()
		}
	}
	if s.netns != nil {
		s.netns.close()
		s.netns = nil
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // it is below the directory of temporary files
	}
}

func (s *Set) processorTime() (sum time.Duration) {
	for _, m := range s.Machines {
		sum += m.processorTime()
	}
	return sum
}
