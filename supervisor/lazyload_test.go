package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lazyVerb makes the test binary a workload that tries its memory as soon as
// it runs again: [ "lazy-load", MiB, the file to wait for, tasks... ].
const lazyVerb = "lazy-load"

const (
	testPage  = 4096
	blockSize = 8 << 20 // a task of its own each
)

// block is memory whose pages follow from their number: some are full of it,
// some zero, and some were never touched.
type block struct {
	pages []byte
	from  uint64
}

func newBlock(n int) block {
	b, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(err)
	}
	l := block{b, uint64(n) * blockSize / testPage}
	for i := uint64(0); i < blockSize/testPage; i++ {
		if v := l.value(i); v != 0 || i%13 != 0 {
			page := unsafe.Slice((*uint64)(unsafe.Pointer(&b[i*testPage])), testPage/8)
			for j := range page {
				page[j] = v
			}
		}
	}
	return l
}

func (l block) value(i uint64) uint64 {
	if i%7 == 0 {
		return 0
	}
	return (l.from + i) * 0x9e3779b97f4a7c15
}

// bad returns the number of the first page that is not as it must be, plus
// one. It runs in a child that was only forked, so it may not need the runtime.
//
//go:norace
//go:nosplit
func bad(base unsafe.Pointer, from uint64) uint64 {
	for i := uint64(0); i < blockSize/testPage; i++ {
		want := (from + i) * 0x9e3779b97f4a7c15
		if i%7 == 0 {
			want = 0
		}
		for _, at := range [...]uint64{0, 1000, testPage/8 - 1} {
			at %= testPage / 8
			if *(*uint64)(unsafe.Add(base, i*testPage+at*8)) != want {
				return i + 1
			}
		}
	}
	return 0
}

func (l block) check() error {
	if n := bad(unsafe.Pointer(unsafe.SliceData(l.pages)), l.from); n != 0 {
		return fmt.Errorf("page %d of the block at %d is wrong", n-1, l.from)
	}
	return nil
}

// wait waits for the file, and counts so that the largest gap is known.
func waitFor(file string) {
	for {
		if _, err := os.Stat(file); err == nil {
			return
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func lazyLoad(args []string) {
	size, _ := strconv.Atoi(args[0])
	var blocks []block
	for n := range size << 20 / blockSize {
		blocks = append(blocks, newBlock(n))
	}
	if slices.Contains(args[2:], "wipe") {
		if err := unix.Madvise(blocks[len(blocks)-1].pages, unix.MADV_WIPEONFORK); err != nil {
			panic(err)
		}
	}
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) // one of these tests kills the reader
	fmt.Println("ready")
	waitFor(args[1])
	begin := time.Now()
	err := lazyTasks(args[2:], blocks)
	word := "all is well\n"
	if err != nil {
		word = fmt.Sprintf("wrong: %v\n", err)
	}
	word = fmt.Sprintf("done in %v: %s", time.Since(begin).Round(time.Millisecond), word)
	if err := os.WriteFile(args[1]+".out", []byte(word), 0o600); err != nil { // for when nobody reads the pipe
		panic(err)
	}
	fmt.Print(word)
	if err != nil {
		os.Exit(1)
	}
	select {}
}

// lazyTasks does all of them at once. Those that change the blocks have a
// part of them each.
func lazyTasks(tasks []string, blocks []block) error {
	var wg sync.WaitGroup
	errs := make([]error, len(tasks))
	part := len(blocks) / len(tasks)
	for i, task := range tasks {
		mine := blocks[i*part : (i+1)*part]
		wg.Go(func() {
			switch task {
			case "verify":
				errs[i] = verify(mine)
			case "random":
				errs[i] = touchAtRandom(mine)
			case "fork":
				errs[i] = forkMany(mine)
			case "remap":
				errs[i] = remapAll(mine)
			case "drop":
				errs[i] = dropAll(mine)
			case "wipe":
				errs[i] = wiped(mine[len(mine)-1])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// verify checks the blocks, one thread from each end.
func verify(blocks []block) error {
	var wg sync.WaitGroup
	var errs [2]error
	wg.Go(func() {
		for _, b := range blocks {
			errs[0] = errors.Join(errs[0], b.check())
		}
	})
	wg.Go(func() {
		for i := range blocks {
			errs[1] = errors.Join(errs[1], blocks[len(blocks)-1-i].check())
		}
	})
	wg.Wait()
	return errors.Join(errs[:]...)
}

func touchAtRandom(blocks []block) error {
	x := uint64(88172645463325252)
	for range 20000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b := blocks[x%uint64(len(blocks))]
		i := x >> 20 % (blockSize / testPage)
		if got := *(*uint64)(unsafe.Pointer(&b.pages[i*testPage+8])); got != b.value(i) {
			return fmt.Errorf("page %d of the block at %d holds %#x", i, b.from, got)
		}
	}
	return nil
}

// forkMany has children that check all that there is at their fork, and
// that fork themselves.
func forkMany(blocks []block) error {
	var pids []int
	for n := range 4 {
		pid := forkCheck(blocks, 1)
		if pid <= 0 {
			return fmt.Errorf("fork %d: %d", n, pid)
		}
		pids = append(pids, pid)
		time.Sleep(5 * time.Millisecond)
	}
	for _, pid := range pids {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err != nil || !status.Exited() || status.ExitStatus() != 0 {
			return fmt.Errorf("child %d: status %#x, %v", pid, int(status), err)
		}
	}
	return nil
}

// forkCheck forks a child that checks the blocks, and depth more generations.
// The child ends with 0 if all is well. Signals are blocked: the child has no
// runtime to handle them.
func forkCheck(blocks []block, depth int) int {
	all, old := unix.Sigset_t{}, unix.Sigset_t{}
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old)
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	return forkRaw(blocks, depth)
}

//go:norace
//go:noinline
func forkRaw(blocks []block, depth int) int {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return -1
	}
	if pid != 0 {
		return int(pid)
	}
	for ; depth > 0; depth-- {
		pid, _, errno = unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 3, 0, 0)
		}
		if pid != 0 {
			break
		}
	}
	for i := len(blocks) - 1; i >= 0; i-- {
		if bad(unsafe.Pointer(unsafe.SliceData(blocks[i].pages)), blocks[i].from) != 0 {
			unix.RawSyscall(unix.SYS_WRITE, 1, uintptr(unsafe.Pointer(unsafe.StringData("wrong\n"))), 6)
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
		}
	}
	if pid != 0 {
		var status uint32
		unix.RawSyscall6(unix.SYS_WAIT4, pid, uintptr(unsafe.Pointer(&status)), 0, 0, 0, 0)
		if status != 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 2, 0, 0)
		}
	}
	unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	return 0
}

// remapAll moves blocks about and checks them at each place.
func remapAll(blocks []block) error {
	for range 3 {
		for i := range blocks {
			to, err := unix.Mmap(-1, 0, 2*blockSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				return err
			}
			p := unsafe.Pointer(unsafe.SliceData(to))
			if _, err := unix.MremapPtr(unsafe.Pointer(unsafe.SliceData(blocks[i].pages)), blockSize, p, blockSize, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED); err != nil {
				return fmt.Errorf("mremap: %w", err)
			}
			blocks[i].pages = unsafe.Slice((*byte)(p), blockSize)
			if i%4 == 0 {
				if err := blocks[i].check(); err != nil {
					return fmt.Errorf("moved: %w", err)
				}
			}
		}
	}
	return verify(blocks)
}

// dropAll gives back half of each block, unmaps another quarter, and finds
// that empty from then on.
func dropAll(blocks []block) error {
	for _, b := range blocks {
		half, quarter := b.pages[:blockSize/2], b.pages[blockSize/2:3*blockSize/4]
		if err := unix.Madvise(half, unix.MADV_DONTNEED); err != nil {
			return err
		}
		p := unsafe.Pointer(unsafe.SliceData(quarter))
		if err := unix.MunmapPtr(p, uintptr(len(quarter))); err != nil {
			return err
		}
		if _, err := unix.MmapPtr(-1, 0, p, uintptr(len(quarter)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE); err != nil {
			return err
		}
		for i := 0; i < 3*blockSize/4; i += testPage {
			if b.pages[i] != 0 || b.pages[i+testPage-1] != 0 {
				return fmt.Errorf("dropped page %d of the block at %d is not empty", i/testPage, b.from)
			}
			b.pages[i] = 1
		}
		for i := uint64(3 * blockSize / 4 / testPage); i < blockSize/testPage; i++ {
			if got := *(*uint64)(unsafe.Pointer(&b.pages[i*testPage])); got != b.value(i) {
				return fmt.Errorf("kept page %d of the block at %d holds %#x", i, b.from, got)
			}
		}
	}
	return nil
}

// wiped has a child that must find the block empty.
func wiped(b block) error {
	pid := forkEmpty(b)
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status != 0 {
		return fmt.Errorf("the child found what was to be wiped: %#x, %v", int(status), err)
	}
	return b.check()
}

func forkEmpty(b block) int {
	all, old := unix.Sigset_t{}, unix.Sigset_t{}
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old)
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	return forkEmptyRaw(unsafe.Pointer(unsafe.SliceData(b.pages)))
}

//go:norace
//go:noinline
func forkEmptyRaw(base unsafe.Pointer) int {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid)
	}
	for i := uint64(0); i < blockSize; i += testPage {
		if *(*uint64)(unsafe.Add(base, i)) != 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
		}
	}
	unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	return 0
}
