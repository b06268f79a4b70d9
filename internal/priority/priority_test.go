package priority

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// nice returns the nice value of the calling thread: getpriority(2) returns it
// taken from 20.
func nice(t *testing.T) int {
	p, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	return 20 - p
}

func TestRun(t *testing.T) {
	before, want := nice(t), errors.New("result")
	for value, run := range map[int]func(func() error) error{low: Low, high: High} {
		var inside int
		err := run(func() error {
			inside = nice(t)
			return want
		})
		if !errors.Is(err, want) || inside != value {
			t.Errorf("= %v at nice %d, want %v at %d", err, inside, want, value)
		}
	}
	for range 100 { // no such thread may serve others
		after := make(chan int)
		go func() { after <- nice(t) }()
		if n := <-after; n != before {
			t.Fatalf("a goroutine afterwards has nice %d, want %d", n, before)
		}
	}
}
