package predump

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary stand in for a workload with known memory.
func TestMain(m *testing.M) {
	if what := os.Getenv("PREDUMP_CHILD"); what != "" {
		child(what)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	dataPages = 4096 // of the child's main mapping
	zeroAt    = 100  // pages that hold zeros
	zeroEnd   = 200
)

// child maps memory, says where ("name address pages" lines, then "ready"), and
// then does a line of stdin at a time.
func child(what string) {
	say := func(name string, b []byte) {
		fmt.Printf("%s %x %d\n", name, uintptr(unsafe.Pointer(&b[0])), len(b)/PageSize)
	}
	data := anonymous(dataPages, unix.PROT_READ|unix.PROT_WRITE)
	fill(data, 1)
	clear(data[zeroAt*PageSize : zeroEnd*PageSize])
	say("data", data)
	if strings.Contains(what, "sparse") {
		sparse(say)
	}
	if strings.Contains(what, "kinds") {
		kinds(say)
	}
	if strings.Contains(what, "huge") {
		huge(say)
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var page, pages int
		if n, _ := fmt.Sscanf(in.Text(), "write %d %d", &page, &pages); n == 2 {
			fill(data[page*PageSize:(page+pages)*PageSize], 2)
		}
		if in.Text() == "exec" {
			exe, _ := os.Executable()
			fmt.Println(unix.Exec(exe, os.Args[:1], []string{"PREDUMP_CHILD=again"}))
		}
		if in.Text() == "churn" {
			go churn(data)
		}
		if f := commands[in.Text()]; f != nil {
			f(data)
		}
		fmt.Println("done")
	}
}

func churn(data []byte) {
	for v := uint64(3); ; v++ {
		fill(data, v)
	}
}

// sparse reserves much and touches little.
func sparse(say func(string, []byte)) {
	say("reserved", anonymous(64<<30/PageSize, unix.PROT_NONE))
	b := anonymous(64<<30/PageSize, unix.PROT_READ|unix.PROT_WRITE)
	say("sparse", b)
	b[32<<30] = 1
}

// huge maps a huge page, if there is one.
func huge(say func(string, []byte)) {
	b, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_HUGETLB)
	if err == nil {
		fill(b, 8)
		say("huge", b)
	}
}

// kinds maps what a pass has to take, and what it has to leave alone.
func kinds(say func(string, []byte)) {
	unreadable := anonymous(16, unix.PROT_READ|unix.PROT_WRITE)
	fill(unreadable, 4)
	must(unix.Mprotect(unreadable, unix.PROT_NONE))
	say("unreadable", unreadable)

	f, err := os.CreateTemp("", "predump-*")
	must(err)
	must(os.Remove(f.Name()))
	_, err = f.Write(make([]byte, 16*PageSize))
	must(err)
	for name, flags := range map[string]int{"file": unix.MAP_PRIVATE, "shared": unix.MAP_SHARED} {
		b, err := unix.Mmap(int(f.Fd()), 0, 16*PageSize, unix.PROT_READ|unix.PROT_WRITE, flags)
		must(err)
		for i := range 16 {
			_ = *(*byte)(unsafe.Pointer(&b[i*PageSize]))
		}
		b[3*PageSize] = 7 // a private mapping gets a page of its own
		say(name, b)
	}
	memory := anonymousFlags(16, unix.MAP_SHARED)
	fill(memory, 5)
	say("sharedmemory", memory)

	guarded := anonymous(16, unix.PROT_READ|unix.PROT_WRITE)
	fill(guarded, 6)
	const guardInstall = 102 // MADV_GUARD_INSTALL, Linux 6.13; refused before
	_ = unix.Madvise(guarded[4*PageSize:8*PageSize], guardInstall)
	say("guarded", guarded)
}

func anonymous(pages, prot int) []byte {
	b, err := unix.Mmap(-1, 0, pages*PageSize, prot, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	must(err)
	return b
}

func anonymousFlags(pages, flags int) []byte {
	b, err := unix.Mmap(-1, 0, pages*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|flags)
	must(err)
	return b
}

// fill makes every page different, by its address and the version.
func fill(b []byte, version uint64) {
	for i := 0; i < len(b); i += 64 {
		binary.LittleEndian.PutUint64(b[i:], version<<56|uint64(uintptr(unsafe.Pointer(&b[i]))))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// load is a running child.
type load struct {
	cmd   *exec.Cmd
	in    io.Writer
	out   *bufio.Reader
	areas map[string]extent
}

func startLoad(t testing.TB, what string) *load {
	t.Helper()
	l := &load{cmd: exec.Command("/proc/self/exe"), areas: map[string]extent{}}
	l.cmd.Env = append(os.Environ(), "PREDUMP_CHILD="+what)
	l.run(t)
	return l
}

// run starts the child and waits until it has its memory.
func (l *load) run(t testing.TB) {
	t.Helper()
	l.cmd.Stderr = os.Stderr
	in, err := l.cmd.StdinPipe()
	must(err)
	out, err := l.cmd.StdoutPipe()
	must(err)
	l.in, l.out = in, bufio.NewReader(out)
	must(l.cmd.Start())
	t.Cleanup(l.stop)
	l.ready(t)
}

func (l *load) ready(t testing.TB) {
	t.Helper()
	for {
		line, err := l.out.ReadString('\n')
		if err != nil {
			t.Fatalf("child: %q, %v", line, err)
		}
		if line == "ready\n" {
			return
		}
		var name string
		var start, pages uint64
		if _, err := fmt.Sscanf(line, "%s %x %d", &name, &start, &pages); err != nil {
			t.Fatalf("child said %q", line)
		}
		l.areas[name] = extent{start, start + pages*PageSize}
	}
}

func (l *load) do(t testing.TB, command string) {
	t.Helper()
	fmt.Fprintln(l.in, command)
	if line, err := l.out.ReadString('\n'); line != "done\n" {
		t.Fatalf("child answered %q with %q, %v", command, line, err)
	}
}

// stop may be called again.
func (l *load) stop() {
	_ = l.cmd.Process.Kill() // it may have ended
	_ = l.cmd.Wait()         // says only that it was killed
}

func (l *load) tasks() []Task { return []Task{{l.cmd.Process.Pid, 1}} }

// store is a Sink that keeps everything, as a target does.
type store struct {
	mu    sync.Mutex
	pages map[uint64]string // by address
	each  func()            // called for every call, if set
}

func newStore() *store { return &store{pages: map[uint64]string{}} }

func (s *store) Data(_ context.Context, _ Image, addr uint64, data []byte) error {
	if s.each != nil {
		s.each()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(data); i += PageSize {
		s.pages[addr+uint64(i)] = string(data[i : i+PageSize])
	}
	return nil
}

func (s *store) Zero(_ context.Context, _ Image, addr, pages uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range pages {
		s.pages[addr+i*PageSize] = string(zeroPage[:])
	}
	return nil
}

// in counts the stored pages of an area.
func (s *store) in(e extent) (n int) {
	for addr := range s.pages {
		if addr >= e.start && addr < e.end {
			n++
		}
	}
	return n
}
