package containers

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"migrate/internal/testhost"
)

// counters are clients of one redis that count, each over one connection for as long as
// the test lasts. An answer that is not the next number, or a connection that ends, is
// an error.
type counters struct {
	pause  time.Duration // between an answer and the next request
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	errs    []error
	longest time.Duration
	counts  []int
}

// restful clients leave processors to other tests.
const restful = 5 * time.Millisecond

// count starts n clients on a host. Without a pause they take all of a processor.
func count(t *testing.T, from *testhost.Host, address string, n int, pause time.Duration) *counters {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &counters{pause: pause, cancel: cancel, counts: make([]int, n)}
	for i := range n {
		var conn net.Conn
		await(t, "there is a server at "+address, func() (up bool) {
			var err error
			conn, err = from.Dial(ctx, "tcp", address)
			return err == nil
		})
		c.done.Go(func() { c.run(ctx, i, conn) })
	}
	t.Cleanup(func() { c.stop(t) })
	return c
}

func (c *counters) run(ctx context.Context, i int, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r := bufio.NewReader(conn)
	key := fmt.Sprintf("counter:%02d", i)
	request := fmt.Sprintf("*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n", len(key), key)
	last := time.Now()
	for n := 1; ctx.Err() == nil; n++ {
		err := one(conn, r, request, n)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		c.mu.Lock()
		c.counts[i], c.longest = n, max(c.longest, now.Sub(last))
		if err != nil {
			c.errs = append(c.errs, fmt.Errorf("client %d: %w", i, err))
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
		last = now
		if c.pause > 0 {
			time.Sleep(c.pause)
			last = time.Now()
		}
	}
}

// one counts once and demands the number n.
func one(conn net.Conn, r *bufio.Reader, request string, n int) error {
	if _, err := conn.Write([]byte(request)); err != nil {
		return fmt.Errorf("asking for %d: %w", n, err)
	}
	line, err := r.ReadString('\n')
	if err != nil {
		return fmt.Errorf("waiting for %d: %w", n, err)
	}
	if got := strings.TrimSpace(line); got != ":"+strconv.Itoa(n) {
		return fmt.Errorf("got %q, want %d", got, n)
	}
	return nil
}

// gap returns the longest time that any client waited, and begins anew.
func (c *counters) gap() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.longest
	c.longest = 0
	return d
}

// check demands that nothing went wrong, and that every client goes on.
func (c *counters) check(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	before := append([]int(nil), c.counts...)
	c.mu.Unlock()
	await(t, "every client counts on", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, n := range c.counts {
			if n <= before[i] && len(c.errs) == 0 {
				return false
			}
		}
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.errs) > 0 {
		t.Fatalf("%d clients saw something wrong, the first: %v", len(c.errs), c.errs[0])
	}
}

// stop ends the clients, and tells what they saw wrong.
func (c *counters) stop(t *testing.T) {
	c.cancel()
	c.done.Wait()
	for _, err := range c.errs {
		t.Error(err)
	}
	c.errs = nil
}
