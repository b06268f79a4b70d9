package testhost

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// connect makes the bridge and one cable from it to each host. Both ends of a
// cable are made where they belong, and so never show on the machine.
func (s *Set) connect(rate string) error {
	var b strings.Builder
	b.WriteString("link add name br0 type bridge\nlink set br0 up\n")
	for _, h := range s.hosts {
		fmt.Fprintf(&b, "link add name %s mtu 1500 type veth peer name eth0 netns %d\n", h.port(), h.InitPID())
		fmt.Fprintf(&b, "link set %s master br0 up\n", h.port())
	}
	if err := s.inSwitch(b.String(), "ip", "-batch", "-"); err != nil {
		return fmt.Errorf("make the bridge: %w", err)
	}
	for _, h := range s.hosts {
		if err := h.plugIn(rate); err != nil {
			return fmt.Errorf("network of host %s: %w", h.Name, err)
		}
	}
	return nil
}

func (h *Host) plugIn(rate string) error {
	// CRIU's probe of the kernel connects over lo.
	lines := fmt.Sprintf("link set lo up\naddr add %s/24 dev eth0\nlink set eth0 up\n", h.Address())
	if err := runIn(h.InitPID(), lines, "ip", "-batch", "-"); err != nil {
		return err
	}
	if rate == "" {
		return nil
	}
	return runIn(h.InitPID(), "", "tc", "qdisc", "add", "dev", "eth0", "root", "tbf",
		"rate", rate, "burst", "128kb", "latency", "20ms")
}

// port is the switch's end of the host's cable.
func (h *Host) port() string { return "port" + strconv.Itoa(h.index) }

// Cut takes the host's link down at the switch. In the host eth0 loses its
// carrier and keeps its address, as when a cable is pulled.
func (h *Host) Cut() error { return h.setLink("down") }

// Join takes the host's link up again.
func (h *Host) Join() error { return h.setLink("up") }

func (h *Host) setLink(state string) error {
	return h.set.inSwitch("", "ip", "link", "set", h.port(), state)
}

// Linked reports whether the host's link is up.
func (h *Host) Linked() bool {
	return h.set.inSwitch("", "sh", "-c", "ip -o link show up dev "+h.port()+" | grep -q .") == nil
}

func (s *Set) inSwitch(stdin, name string, args ...string) error {
	b, err := os.ReadFile(s.path("switch", "init.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil || !s.runsOurs(pid) {
		return fmt.Errorf("the switch of set %s has died", s.name)
	}
	return runIn(pid, stdin, name, args...)
}

// runIn runs a command in the network namespace of a process. The thread that
// entered the namespace ends with the goroutine that is locked to it.
func runIn(pid int, stdin, name string, args ...string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace: %w", err)
			}
			cmd := exec.Command(name, args...)
			cmd.Stdin = strings.NewReader(stdin)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
			}
			return nil
		}()
	}()
	return <-done
}
