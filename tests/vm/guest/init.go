package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// searchPath is that of all that runs in a guest.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The first bytes of the interfaces' hardware addresses tell them apart.
const (
	ControlMAC = "52:54:00:00:00" // by which the machine outside speaks to the guest
	TestMAC    = "52:54:00:11:00" // by which the guests speak to each other
)

// pidsPerHost keeps the PIDs of the guests apart, so that those of a workload
// that comes from another guest are free.
const pidsPerHost = 10000

// Settings come on the kernel's command line.
type Settings struct {
	Name    string // vm.name
	Number  int    // vm.number
	Address string // vm.ip, with prefix
	Uptime  int    // vm.uptime: seconds that it seems to have been up for before
	SSH     bool   // vm.ssh: be reached by SSH, at an address from DHCP
	Systemd bool   // vm.systemd: go on as systemd, of which the server is a service
}

// CommandLine returns s for the kernel's command line.
func (s Settings) CommandLine() string {
	line := fmt.Sprintf("vm.name=%s vm.number=%d vm.ip=%s", s.Name, s.Number, s.Address)
	if s.Uptime != 0 {
		line += fmt.Sprintf(" vm.uptime=%d", s.Uptime)
	}
	if s.SSH {
		line += " vm.ssh"
	}
	if s.Systemd {
		// No udev finds the terminals that it would wait for.
		line += " vm.systemd systemd.getty_auto=no systemd.show_status=1 systemd.journald.forward_to_console=1"
	}
	return line
}

// ParseCommandLine finds what [Settings.CommandLine] wrote.
func ParseCommandLine(line string) (s Settings, err error) {
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		var bad error
		switch key {
		case "vm.name":
			s.Name = value
		case "vm.number":
			s.Number, bad = strconv.Atoi(value)
		case "vm.ip":
			s.Address = value
		case "vm.uptime":
			s.Uptime, bad = strconv.Atoi(value)
		case "vm.ssh":
			s.SSH = true
		case "vm.systemd":
			s.Systemd = true
		}
		err = errors.Join(err, bad)
	}
	if err != nil || s.Name == "" || s.Number < 1 || s.Address == "" {
		return s, errors.Join(fmt.Errorf("bad settings in %q", line), err)
	}
	return s, nil
}

// Init makes a host of the mounted disk, starts the server and reaps what
// nobody else does. It returns only if it fails.
func Init() error {
	if err := errors.Join(os.Setenv("PATH", searchPath), os.Setenv("HOME", "/root"), os.Setenv("LANG", "C.UTF-8")); err != nil {
		return err
	}
	if err := mountAll(); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	s, err := ParseCommandLine(string(line))
	if err != nil {
		return err
	}
	if err := s.apply(); err != nil {
		return err
	}
	if s.Systemd {
		return becomeSystemd()
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	server, err := startServer(s.Uptime)
	if err != nil {
		return err
	}
	if s.SSH {
		if err := s.startSSH(); err != nil {
			return err
		}
	}
	for {
		if reap(server) {
			return errors.New("the guest's server has ended")
		}
		<-children
	}
}

// reap takes every dead child, and tells whether one of them was pid.
func reap(pid int) (ended bool) {
	for {
		dead, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case dead <= 0:
			return ended
		case dead == pid:
			ended = true
		}
	}
}

// startServer starts the server as a process of its own: one that reaps
// everything cannot wait for what it started. With an uptime, the server and
// all that it runs are in a time namespace in which the machine seems to have
// been up for so much longer.
func startServer(uptime int) (int, error) {
	args := []string{Path, "serve"}
	if uptime != 0 {
		seconds := strconv.Itoa(uptime)
		args = append([]string{"/usr/bin/unshare", "--time", "--monotonic", seconds, "--boottime", seconds, "--fork"}, args...)
	}
	return start(args...)
}

// start starts a program in a session of its own.
func start(args ...string) (int, error) {
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{
		Dir: "/root", Env: os.Environ(), Files: []*os.File{nil, os.Stdout, os.Stderr}, Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	return p.Pid, nil
}

// Listen serves until the machine ends.
func Listen() error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", Port))
	if err != nil {
		return err
	}
	var up unix.Sysinfo_t
	_ = unix.Sysinfo(&up) // for people
	fmt.Printf("guest: ready after %v\n", time.Duration(up.Uptime)*time.Second)
	return Serve(l)
}

func mountAll() error {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV
	if err := errors.Join(
		mount("proc", "/proc", "proc", quiet, ""),
		mount("sysfs", "/sys", "sysfs", quiet, ""),
		mount("devpts", "/dev/pts", "devpts", 0, "gid=5,mode=620,ptmxmode=666"),
		mount("tmpfs", "/dev/shm", "tmpfs", quiet, "mode=1777"),
		mount("tmpfs", "/run", "tmpfs", quiet, "mode=755"),
		mount("tmpfs", "/tmp", "tmpfs", quiet, "mode=1777"),
		mount("cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, ""),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""),
	); err != nil {
		return err
	}
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.MkdirAll("/run/lock", 0o755)
}

// modules are loaded up front: CRIU and the container runtimes ask for what
// not every kernel loads by itself.
var modules = []string{"virtio_net", "virtio_rng", "tun", "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag",
	"af_packet_diag", "netlink_diag", "overlay", "veth", "nf_tables", "sch_netem"}

func (s Settings) apply() error {
	if out, err := exec.Command("modprobe", append([]string{"--all"}, modules...)...).CombinedOutput(); err != nil {
		fmt.Printf("guest: modprobe: %s\n", out) // what needs one of them says so
	}
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil && !errors.Is(err, os.ErrExist) {
		fmt.Printf("guest: /dev/net/tun: %v\n", err)
	}
	hosts := "127.0.0.1 localhost\n127.0.1.1 " + s.Name + "\n"
	return errors.Join(
		unix.Sethostname([]byte(s.Name)),
		os.WriteFile("/etc/hostname", []byte(s.Name+"\n"), 0o644),
		os.WriteFile("/etc/hosts", []byte(hosts), 0o644),
		// In this order: a PID above pid_max is refused.
		sysctl("kernel/pid_max", "4194304"),
		sysctl("kernel/ns_last_pid", strconv.Itoa(pidsPerHost*s.Number)),
		sysctl("net/ipv4/ip_forward", "1"),
		sysctl("net/ipv4/ping_group_range", "0 2147483647"),
		s.network(),
	)
}

func sysctl(name, value string) error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) }

// network gives the interfaces their addresses.
func (s Settings) network() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	var batch strings.Builder
	fmt.Fprintln(&batch, "link set lo up")
	for _, i := range interfaces {
		switch mac := i.HardwareAddr.String(); {
		case strings.HasPrefix(mac, ControlMAC) && s.SSH: // DHCP's
			fmt.Fprintf(&batch, "link set %s up\n", i.Name)
		case strings.HasPrefix(mac, ControlMAC):
			fmt.Fprintf(&batch, "link set %[1]s up\naddress add 10.0.2.15/24 dev %[1]s\n", i.Name)
		case strings.HasPrefix(mac, TestMAC):
			fmt.Fprintf(&batch, "link set %[1]s up\naddress add %[2]s dev %[1]s\n", i.Name, s.Address)
		}
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("network: %w\n%s", err, out)
	}
	return nil
}
