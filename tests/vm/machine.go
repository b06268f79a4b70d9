package vm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"migrate/tests/vm/guest"
)

// Machine is a running virtual machine.
type Machine struct {
	Guest
	Kernel  Kernel
	Boots   int    // 2 when the first one panicked
	console string // file
	link    string // of the test network, in the namespace
	cmd     *exec.Cmd
	ended   chan struct{}
	once    sync.Once
}

// accelerator is VM_ACCEL, such as kvm. It is not guessed: /dev/kvm also
// exists where no guest of Debian's boots.
func accelerator() string { return cmp.Or(os.Getenv("VM_ACCEL"), "tcg") }

// arguments are QEMU's. Processor features are those of the definition under
// emulation, and the host's else.
func arguments(d Definition, h Host, k Kernel, im Image, initrd, console string, up time.Duration, systemd bool) []string {
	accel, cpu := accelerator(), "host"
	if accel == "tcg" {
		accel, cpu = "tcg,thread=multi", d.CPU
	}
	settings := guest.Settings{Name: h.Name, Number: h.Number, Address: h.Address, Uptime: int(up.Seconds()), Systemd: systemd}
	return []string{
		"-name", h.Name, "-accel", accel, "-cpu", cpu, "-machine", "q35", "-smp", "1", "-m", strconv.Itoa(d.Memory) + "M",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:" + console,
		"-kernel", filepath.Join(k.dir, "vmlinuz"), "-initrd", initrd,
		// A panic ends QEMU at once: it reboots (panic=-1), which -no-reboot makes an end.
		"-append", d.Line + " " + settings.CommandLine(),
		"-drive", "file=" + im.Disk() + ",format=raw,if=virtio,snapshot=on,cache=unsafe",
		"-netdev", fmt.Sprintf("user,id=control,restrict=on,hostfwd=tcp:%s-:%d", controlAddress(h), guest.Port),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=control,mac=%s:%02x,romfile=", guest.ControlMAC, h.Number),
		"-netdev", "tap,id=test,ifname=" + linkName(h) + ",script=no,downscript=no",
		"-device", fmt.Sprintf("virtio-net-pci,netdev=test,mac=%s:%02x,romfile=", guest.TestMAC, h.Number),
		"-device", "virtio-rng-pci",
	}
}

// controlAddress is where the guest's server is reached in the namespace.
func controlAddress(h Host) string { return fmt.Sprintf("127.0.0.1:%d", guest.Port+h.Number) }

func linkName(h Host) string { return fmt.Sprintf("tap%d", h.Number) }

// bootLimit is how long a boot may take on a machine that is busy with others.
const bootLimit = 3 * time.Minute

// errPanic is a boot that is worth a second try.
var errPanic = errors.New("the guest's kernel panicked")

// boot starts QEMU and waits until the guest answers.
func (m *Machine) boot(ctx context.Context, n *netns, args []string) error {
	m.Boots++
	m.ended, m.once = make(chan struct{}), sync.Once{}
	var said bytes.Buffer
	m.cmd = exec.Command("qemu-system-x86_64", args...) // ended by stop
	m.cmd.Stdout, m.cmd.Stderr = &said, &said
	m.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	var err error
	n.do(func() { err = m.cmd.Start() })
	if err != nil {
		return fmt.Errorf("starting %s: %w", m.Name, err)
	}
	go func() { defer close(m.ended); m.cmd.Wait() }()
	m.Guest = guestOf(m.Host, m.cmd.Process.Pid)
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err = m.awaitAnswer(ctx); err == nil {
		return nil
	}
	m.stop()
	if panicked(m.Console()) {
		return fmt.Errorf("booting %s: %w", m.Name, errPanic)
	}
	return fmt.Errorf("booting %s: %w\n%s", m.Name, err, said.Bytes())
}

// awaitAnswer wants a whole answer: QEMU takes connections before the guest does.
func (m *Machine) awaitAnswer(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := m.Ping(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-m.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var panicLine = regexp.MustCompile(`Kernel panic|BUG:|PANIC:|Oops:|general protection fault`)

// panicked tells whether the kernel failed by itself. That the first process
// ended is no fault of the kernel's, and happens again.
func panicked(console string) bool {
	return panicLine.MatchString(console) && !strings.Contains(console, "Attempted to kill init")
}

// Console returns what the guest's kernel has said.
func (m *Machine) Console() string {
	b, err := os.ReadFile(m.console)
	if err != nil {
		return err.Error()
	}
	return strings.ToValidUTF8(string(b), "?")
}

// stop ends the machine. Nothing of it is kept.
func (m *Machine) stop() {
	m.once.Do(func() { _ = m.cmd.Process.Kill() }) // ended already is as good
	<-m.ended
}

// processorTime is what the machine has used of this one's processors: it
// tells more than a clock when others use them, too. It is 0 when the machine
// has ended.
func (m *Machine) processorTime() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// After the name in parentheses; utime and stime are the 14th and 15th of all, in 1/100 s: proc_pid_stat(5).
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, _ := strconv.ParseInt(f, 10, 64) // the kernel writes numbers
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
