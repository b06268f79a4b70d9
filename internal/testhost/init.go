package testhost

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const ready = "ready"

// namespaces are those that a host has of its own from the start; it enters
// the cgroup namespace itself once it is in the right cgroup.
const namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// startInits starts the switch and every host's PID 1, and waits for them.
func (s *Set) startInits() error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	if err := s.startInit("switch", 0, unix.CLONE_NEWNET); err != nil {
		return err
	}
	for _, h := range s.hosts {
		if err := h.makeCgroups(trees); err != nil {
			return err
		}
		if err := s.startInit(h.Name, pidsPerHost*h.index, namespaces); err != nil {
			return err
		}
	}
	return nil
}

// pidsPerHost keeps the PIDs of the hosts apart, so that those of a workload
// that comes from another host are free.
const pidsPerHost = 10000

// startInit runs "hosts init" and waits until it says that it is ready.
func (s *Set) startInit(name string, lastPID int, flags uintptr) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(s.path("bin", "hosts"), "init", "--set", s.name, "--last-pid", strconv.Itoa(lastPID), name)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: flags, Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start host %s: %w", name, err)
	}
	go cmd.Wait() // reaps it, should it end before this process does
	said, err := io.ReadAll(r)
	if err != nil || string(said) != ready {
		return errors.Join(fmt.Errorf("host %s: %s", name, strings.TrimSpace(string(said))), err)
	}
	if err := os.MkdirAll(s.path(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(s.path(name, "init.pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
}

// RunInit is the switch or the PID 1 of a host: "hosts init", started by
// [Start] in fresh namespaces with the write end of a pipe as descriptor 3. Its
// goroutine must be locked to the process's first thread.
// The host's PIDs begin after lastPID. It never returns.
func RunInit(set, name string, lastPID int) {
	report := os.NewFile(3, "report")
	// A cgroup namespace belongs to a thread, and a PID stands for the first one.
	if unix.Gettid() != os.Getpid() {
		fmt.Fprint(report, "not on the first thread, where package main has to keep it")
		os.Exit(1)
	}
	s := &Set{name: set}
	if name != "switch" {
		if err := (&Host{set: s, Name: name}).furnish(lastPID); err != nil {
			fmt.Fprint(report, err)
			os.Exit(1)
		}
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	fmt.Fprint(report, ready)
	report.Close()
	for {
		reap()
		<-children
	}
}

// reap takes every dead child. PID 1 that does not keeps PIDs taken, and a
// workload cannot come back to its own.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// furnish makes the namespaces that the process is in into a host.
func (h *Host) furnish(lastPID int) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	// The root of the cgroup namespace is where the process is when it enters.
	if err := h.joinCgroups(trees, ""); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	if err := h.joinCgroups(trees, initCgroup); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(h.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := h.mountAll(trees); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(lastPID)), 0)
}

// mountAll gives the host its own mounts. Its /run comes last because it
// covers the set's directory, and is made ready aside.
func (h *Host) mountAll(trees []hierarchy) error {
	var m mounter
	m.mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	m.mount("proc", "/proc", "proc", 0, "")
	m.mount("sysfs", "/sys", "sysfs", 0, "")
	m.cgroups(trees)
	m.mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620")
	m.mount(h.set.path("etc-hosts"), "/etc/hosts", "", unix.MS_BIND, "")
	m.mount("tmpfs", "/var/lib/migrate", "tmpfs", 0, "mode=0755")
	m.mount("tmpfs", "/etc/migrate", "tmpfs", 0, "mode=0755")
	m.bind(h.path("pki"), "/etc/migrate/pki")

	run := h.path("run")
	m.mkdir(run)
	m.mount("tmpfs", run, "tmpfs", 0, "mode=0755")
	m.mkdir(filepath.Join(run, "lock"))
	m.bind(h.set.path("bin"), filepath.Join(run, "migrate-bin"))
	m.bind(h.path(), filepath.Join(run, "host"))
	m.mount(run, "/run", "", unix.MS_MOVE, "")
	return m.err
}

// mounter mounts one thing after the other until the first failure.
type mounter struct{ err error }

func (m *mounter) mount(source, target, fstype string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		m.err = fmt.Errorf("mount %s: %w", target, err)
	}
}

func (m *mounter) mkdir(dir string) {
	if m.err == nil {
		m.err = os.MkdirAll(dir, 0o755)
	}
}

func (m *mounter) bind(dir, target string) {
	m.mkdir(target)
	m.mount(dir, target, "", unix.MS_BIND, "")
}

// cgroups mounts every tree again where it was, so that its root is now that
// of the host's cgroup namespace.
func (m *mounter) cgroups(trees []hierarchy) {
	const top = "/sys/fs/cgroup"
	for i, t := range trees {
		if i == 0 && t.mount != top {
			m.mount("tmpfs", top, "tmpfs", 0, "mode=0755")
		}
		if t.mount != top {
			m.mkdir(t.mount)
		}
		if t.v2() {
			m.mount("cgroup2", t.mount, "cgroup2", 0, "")
		} else {
			m.mount("cgroup", t.mount, "cgroup", 0, t.options)
		}
	}
}
