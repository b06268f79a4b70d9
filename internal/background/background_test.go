package background

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// priority of the calling thread: getpriority(2) returns 20 less the nice value.
func priority(t *testing.T) int {
	p, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	return 20 - p
}

func TestRun(t *testing.T) {
	before, want := priority(t), errors.New("result")
	var inside int
	err := Run(func() error {
		inside = priority(t)
		return want
	})
	if !errors.Is(err, want) || inside != max(before, nice) {
		t.Errorf("Run() = %v at nice %d, want %v at %d", err, inside, want, nice)
	}
	for range 100 { // no thread with the low priority may serve others
		after := make(chan int)
		go func() { after <- priority(t) }()
		if p := <-after; p != before {
			t.Fatalf("a goroutine afterwards has nice %d, want %d", p, before)
		}
	}
}
