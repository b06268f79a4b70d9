package source

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseLock(t *testing.T) {
	for line, want := range map[string]struct {
		lock fileLock
		ok   bool
	}{
		"1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF":    {fileLock{3568, true, "POSIX ADVISORY WRITE 3568 fd:00:2531452 0 EOF"}, true},
		"2: FLOCK  ADVISORY  READ  3567 fd:00:2548 0 EOF":       {fileLock{3567, false, "FLOCK ADVISORY READ 3567 fd:00:2548 0 EOF"}, true},
		"3: OFDLCK ADVISORY  WRITE -1 08:01:8713209 128 191":    {fileLock{-1, true, "OFDLCK ADVISORY WRITE -1 08:01:8713209 128 191"}, true},
		"4: -> POSIX  ADVISORY  WRITE 3570 fd:00:2531452 0 EOF": {},
		"5: LEASE  ACTIVE    READ  3569 08:01:2531448 0 EOF":    {},
		"nonsense": {}, "": {},
	} {
		if got, ok := parseLock(line); ok != want.ok || ok && got != want.lock {
			t.Errorf("parseLock(%q) = %+v, %v", line, got, ok)
		}
	}
}

// TestHeldBy has this process hold locks of every kind.
func TestHeldBy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for name, lock := range map[string]func(fd, kind int) error{
		"POSIX": func(fd, kind int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: int16(kind)})
		},
		"OFD": func(fd, kind int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: int16(kind)})
		},
		"flock": func(fd, kind int) error {
			return unix.Flock(fd, map[int]int{unix.F_RDLCK: unix.LOCK_SH, unix.F_WRLCK: unix.LOCK_EX}[kind])
		},
	} {
		for _, kind := range []int{unix.F_RDLCK, unix.F_WRLCK} {
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			if err := lock(int(f.Fd()), kind); err != nil {
				t.Fatal(err)
			}
			checkLocked(t, name, true, kind == unix.F_WRLCK)
			f.Close()
			checkLocked(t, "no lock after "+name, false, false)
		}
	}
}

func checkLocked(t *testing.T, name string, some, exclusive bool) {
	t.Helper()
	for write, want := range map[bool]bool{false: some, true: exclusive} {
		if got, err := heldBy([]int{os.Getpid()}, write); err != nil || (len(got) > 0) != want {
			t.Errorf("%s: for writing only %v: %v, %v", name, write, got, err)
		}
	}
	if got, err := heldBy([]int{1 << 30}, false); err != nil || len(got) > 0 {
		t.Errorf("%s is said to be another process's: %v, %v", name, got, err)
	}
}

// TestStanding tells a lock that is held for good from one that comes and goes.
func TestStanding(t *testing.T) {
	dir, stop := t.TempDir(), make(chan struct{})
	var coming sync.WaitGroup
	defer coming.Wait()
	defer close(stop)
	for name, period := range map[string]time.Duration{"good": 0, "moments": 7 * time.Millisecond} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		if period > 0 {
			coming.Go(func() { blink(f, period, stop) })
		}
	}
	self := []int{os.Getpid()}
	first, err := heldBy(self, true)
	if err != nil {
		t.Fatal(err)
	}
	good, err := standing(t.Context(), self, true)
	if err != nil || len(good) != 1 || len(first) < 1 {
		t.Errorf("standing() = %v, %v of %v", good, err, first)
	}
}

// blink locks and unlocks f.
func blink(f *os.File, period time.Duration, stop <-chan struct{}) {
	for how := unix.LOCK_UN; ; how ^= unix.LOCK_UN ^ unix.LOCK_EX {
		select {
		case <-time.After(period):
			_ = unix.Flock(int(f.Fd()), how)
		case <-stop:
			return
		}
	}
}
