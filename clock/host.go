package clock

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
)

// Now reads both clocks, as the calling process sees them. BOOTTIME is read
// second, so that it is never below MONOTONIC.
func Now() migrate.ClockReading {
	m := read(unix.CLOCK_MONOTONIC)
	return migrate.ClockReading{Monotonic: m, Boottime: read(unix.CLOCK_BOOTTIME)}
}

func read(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		// The only errors are a bad pointer and a clock that the kernel lacks;
		// Linux has had both of these since 2.6.39.
		panic(fmt.Sprintf("clock_gettime(%d): %v", id, err))
	}
	return time.Duration(ts.Nano())
}

// Offsets returns what the time namespace of a process adds to the initial
// namespace's clocks; zeros on a kernel without time namespaces.
//
// /proc/PID/timens_offsets speaks of the namespace for the process's children,
// which is its own unless it unshared one and did not fork yet; such a process
// cannot be dumped anyway.
func Offsets(pid int) (mono, boot time.Duration, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	b, err := os.ReadFile(dir + "/timens_offsets")
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(dir)
		return 0, 0, err
	}
	if err != nil {
		return 0, 0, fmt.Errorf("reading time namespace: %w", err)
	}
	return parseOffsets(b)
}

// parseOffsets reads lines such as "monotonic   -5   900000000": seconds and
// nanoseconds, to be added. Old kernels print the clock's number instead of
// its name (time_namespaces(7)).
func parseOffsets(b []byte) (mono, boot time.Duration, err error) {
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		var name string
		var sec, nsec int64
		if _, err := fmt.Sscan(sc.Text(), &name, &sec, &nsec); err != nil {
			return 0, 0, fmt.Errorf("reading time namespace offsets %q: %w", sc.Text(), err)
		}
		d := time.Duration(sec)*time.Second + time.Duration(nsec)
		switch name {
		case "monotonic", "1":
			mono = d
		case "boottime", "7":
			boot = d
		}
	}
	return mono, boot, nil
}

// Supported reports whether a restore on this host can make a time namespace,
// by making one. It needs CAP_SYS_ADMIN, as a restore does.
//
// It is false also if the environment variable MIGRATE_PROBE_DISABLE contains
// "timens", which lets tests see a host without time namespaces.
func Supported() bool {
	if strings.Contains(os.Getenv("MIGRATE_PROBE_DISABLE"), "timens") {
		return false
	}
	if _, err := os.Stat("/proc/self/ns/time_for_children"); err != nil {
		return false
	}
	made := make(chan bool)
	go func() {
		// The thread now has a namespace for its children that nobody must be
		// born into: it stays locked, so the runtime ends it with the goroutine.
		runtime.LockOSThread()
		made <- unix.Unshare(unix.CLONE_NEWTIME) == nil
	}()
	return <-made
}
