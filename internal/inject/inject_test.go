package inject

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// victims are what a process may be at when it is stopped. Each makes its call,
// by the C library and so without Python's own retries, checks what it returned,
// and says "ended".
var victims = map[string]string{
	"nanosleep":  `t = time.monotonic(); assert c.nanosleep(struct.pack("QQ", 0, 600000000), None) == 0, err(); assert 0.6 <= time.monotonic() - t < 60` + untilTold,
	"poll":       `assert c.poll(struct.pack("ihh", 0, 1, 0), 1, 60000) == 1, err()`,
	"select":     `assert c.select(1, struct.pack("QQQQ", 1, *3*[0])+128*b"\0", None, None, None) == 1, err()`,
	"read":       `assert c.read(0, buf, 1) == 1, err()`,
	"futex":      `threading.Timer(0.6, lambda: (buf.__setitem__(0, b"y"), c.syscall(futex, buf, 1, 1, None))).start(); assert c.syscall(futex, buf, 0, 0, struct.pack("QQ", 60, 0)) == 0, err()` + untilTold,
	"sigsuspend": `c.sigsuspend(bytes(128))`,
	"running":    "end = time.monotonic() + 0.6\nn = 0\nwhile time.monotonic() < end:\n n += 1" + untilTold,
	"threads":    `l = [threading.Thread(target=c.usleep, args=(600000,)) for _ in range(8)]; [t.start() for t in l]; [t.join() for t in l]` + untilTold,
	"nobody":     `os.setgid(65534); os.setuid(65534); assert c.read(0, buf, 1) == 1, err()`,
}

// untilTold keeps one that ends by itself from doing so before the last look at it.
const untilTold = "\nc.read(0, buf, 1)"

const prelude = `
import ctypes, os, signal, struct, sys, threading, time
c = ctypes.CDLL(None, use_errno=True)
buf = ctypes.create_string_buffer(4)
err = ctypes.get_errno
futex = 202 if os.uname().machine == "x86_64" else 98
signal.signal(signal.SIGUSR1, lambda *a: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("ready", flush=True)
`

type victim struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func start(t *testing.T, script string) *victim {
	t.Helper()
	return run(t, exec.Command("python3", "-c", prelude+script+"\nprint('ended', flush=True)"))
}

func run(t *testing.T, cmd *exec.Cmd) *victim {
	t.Helper()
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	v := &victim{cmd, in, bufio.NewReader(out)}
	v.says(t, "ready")
	return v
}

func (v *victim) says(t *testing.T, want string) {
	t.Helper()
	line, err := v.out.ReadString('\n')
	if strings.TrimSpace(line) != want {
		t.Fatalf("the process said %q, %v, want %q", line, err, want)
	}
}

// inject makes the process tell its own PID.
func inject(t *testing.T, pid int) {
	t.Helper()
	th, err := Stop(pid)
	if err != nil {
		t.Fatal(err)
	}
	got, err := th.Syscall(unix.SYS_GETPID)
	if err != nil || int(got) != pid {
		t.Errorf("getpid there = %d, %v, want %d", got, err, pid)
	}
	if _, err := th.Syscall(unix.SYS_CLOSE, 9999); !errors.Is(err, unix.EBADF) {
		t.Errorf("close(9999) there = %v, want %v", err, unix.EBADF)
	}
	if err := th.Resume(); err != nil {
		t.Error(err)
	}
}

func TestVictimDoesNotNotice(t *testing.T) {
	for name, script := range victims {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := start(t, script)
			time.Sleep(100 * time.Millisecond) // so that most are in their call
			for range 20 {
				inject(t, v.cmd.Process.Pid)
			}
			if name == "sigsuspend" {
				v.cmd.Process.Signal(unix.SIGUSR1)
			}
			fmt.Fprint(v.in, "x")
			v.says(t, "ended")
		})
	}
}

// TestKeepsNothing: mask, dispositions and pending signals are as before.
func TestKeepsNothing(t *testing.T) {
	v := start(t, `
import os, signal
signal.signal(signal.SIGTRAP, signal.SIG_IGN)
got = []
signal.signal(signal.SIGUSR1, lambda *a: got.append(1))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("ready", flush=True)
os.read(0, 1)
assert not got
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
assert got, got`)
	v.says(t, "ready")
	pid := v.cmd.Process.Pid
	v.cmd.Process.Signal(unix.SIGUSR1)
	before := signals(t, pid)
	inject(t, pid)
	if after := signals(t, pid); after != before {
		t.Errorf("signals after:\n%s\nbefore:\n%s", after, before)
	}
	fmt.Fprint(v.in, "x")
	v.says(t, "ended")
}

// signals returns what /proc/PID/status says of the process's signals, and of
// who traces it.
func signals(t *testing.T, pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "SigQ") {
			continue // counts those of all the user's processes
		}
		if strings.HasPrefix(line, "Sig") || strings.HasPrefix(line, "Shd") || strings.HasPrefix(line, "Tracer") {
			out += line
		}
	}
	return out
}

// TestSignalsArrive: none is lost, however close they come to a stop.
func TestSignalsArrive(t *testing.T) {
	v := child(t, "signals")
	for range 300 {
		v.cmd.Process.Signal(unix.SIGUSR1)
		inject(t, v.cmd.Process.Pid)
		v.says(t, "got")
	}
}

// TestStopped: a process that job control has stopped stays so.
func TestStopped(t *testing.T) {
	v := start(t, `import os; os.read(0, 1)`)
	pid := v.cmd.Process.Pid
	v.cmd.Process.Signal(unix.SIGSTOP)
	awaitState(t, pid, "T")
	inject(t, pid)
	awaitState(t, pid, "T")
	fmt.Fprint(v.in, "x")
	v.cmd.Process.Signal(unix.SIGCONT)
	v.says(t, "ended")
}

func awaitState(t *testing.T, pid int, want string) {
	t.Helper()
	for range 500 {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		if strings.HasPrefix(rest, want) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("process %d is not in state %s", pid, want)
}

// TestSeccomp: a filter that forbids the call does not reach injected ones.
func TestSeccomp(t *testing.T) {
	v := start(t, `
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
# Whoever asks for its PID is told EPERM; all else is allowed.
nr = 39 if os.uname().machine == "x86_64" else 172
prog = b"".join(struct.pack("HBBI", *i) for i in [(0x20,0,0,0), (0x15,0,1,nr), (6,0,0,0x50001), (6,0,0,0x7fff0000)])
buf = ctypes.create_string_buffer(prog)
fprog = struct.pack("HxxxxxxQ", 4, ctypes.addressof(buf))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, fprog, 0, 0) == 0
def denied(): return libc.syscall(nr) == -1 and ctypes.get_errno() == 1
assert denied()
print("ready", flush=True)
os.read(0, 1)
assert denied()`)
	v.says(t, "ready")
	inject(t, v.cmd.Process.Pid)
	fmt.Fprint(v.in, "x")
	v.says(t, "ended")
}

// TestBusyThreads: a program of many threads that allocate, fault and take
// signals goes on.
func TestBusyThreads(t *testing.T) {
	v := child(t, "busy")
	for range 300 {
		inject(t, v.cmd.Process.Pid)
	}
	fmt.Fprintln(v.in, "x")
	v.says(t, "ended")
}

func TestEnded(t *testing.T) {
	v := start(t, `import os; os.read(0, 1)`)
	pid := v.cmd.Process.Pid
	th, err := Stop(pid)
	if err != nil {
		t.Fatal(err)
	}
	v.cmd.Process.Kill()
	if got, err := th.Syscall(unix.SYS_GETPID); !errors.Is(err, unix.ESRCH) {
		t.Errorf("getpid in a process that was killed = %d, %v, want %v", got, err, unix.ESRCH)
	}
	if err := th.Resume(); err != nil {
		t.Errorf("Resume of a process that was killed = %v", err)
	}
	v.cmd.Wait()
	if _, err := Stop(pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("Stop of no process = %v, want %v", err, unix.ESRCH)
	}
}

// TestUninterruptible: who waits for a vfork(2) child cannot be stopped, and is
// not harmed by the attempt.
func TestUninterruptible(t *testing.T) {
	v := run(t, exec.Command("python3", "-c", `
import ctypes, os
libc = ctypes.CDLL(None)
print("ready", flush=True)
pid = libc.syscall(58) if os.uname().machine == "x86_64" else libc.vfork()
if pid == 0:
    libc.read(0, ctypes.create_string_buffer(1), 1)
    libc._exit(0)
os.write(1, b"ended\n")`))
	awaitState(t, v.cmd.Process.Pid, "D")
	if th, err := Stop(v.cmd.Process.Pid); !errors.Is(err, ErrTimeout) {
		t.Errorf("Stop of a process that waits for its vfork child = %v, %v, want %v", th, err, ErrTimeout)
	}
	for end := time.Now().Add(time.Second); !strings.Contains(signals(t, v.cmd.Process.Pid), "TracerPid:\t0\n"); {
		if time.Now().After(end) {
			t.Fatal("the process is traced for good")
		}
	}
	fmt.Fprint(v.in, "x")
	v.says(t, "ended")
}

func TestMain(m *testing.M) {
	switch os.Getenv("INJECT_CHILD") {
	case "busy":
		busy()
	case "signals":
		answer()
	default:
		os.Exit(m.Run())
	}
}

// child runs this program again, as a victim with the Go runtime's threads.
func child(t *testing.T, what string) *victim {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "INJECT_CHILD="+what)
	return run(t, cmd)
}

// answer says "got" for each signal.
func answer() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	fmt.Println("ready")
	for range signals {
		fmt.Println("got")
	}
}

// busy checks what it computes, with garbage collection and the runtime's own
// signals in between.
func busy() {
	stop, failed := make(chan struct{}), make(chan string, 8)
	for range 8 {
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					failed <- ""
					return
				default:
				}
				b := make([]int, 20000)
				for i := range b {
					b[i] = i + n
				}
				if b[19999] != 19999+n {
					failed <- "wrong sum"
					return
				}
			}
		}()
	}
	fmt.Println("ready")
	fmt.Scanln()
	close(stop)
	for range 8 {
		if what := <-failed; what != "" {
			fmt.Println(what)
			return
		}
	}
	fmt.Println("ended")
}

func BenchmarkStop(b *testing.B) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for b.Loop() {
		th, err := Stop(cmd.Process.Pid)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := th.Syscall(unix.SYS_GETPID); err != nil {
			b.Fatal(err)
		}
		if err := th.Resume(); err != nil {
			b.Fatal(err)
		}
	}
}
