package redisload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// interval is the pause between two requests: with the time that an answer
	// takes, there is one each millisecond.
	interval = 700 * time.Microsecond
	// silence is how long one address may say nothing until all are tried.
	silence = 2 * time.Millisecond
)

// Options say what a client does. All are required but Rate.
type Options struct {
	Dial      Dial
	Addresses []string // where the server may be
	Keys      int      // as filled
	Rate      int      // records written per second
}

// Client is at work until it is closed.
type Client struct {
	o     Options
	gaps  gaps
	sent  []atomic.Uint32 // versions, of every hot key
	acked []atomic.Uint32
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu  sync.Mutex
	bad error // the first answer that was wrong
}

// Start starts a client of a server that [Fill] has filled.
func Start(o Options) *Client {
	ctx, stop := context.WithCancel(context.Background())
	hot := (o.Keys + hotEvery - 1) / hotEvery
	c := &Client{o: o, sent: make([]atomic.Uint32, hot), acked: make([]atomic.Uint32, hot), stop: stop}
	for i := range o.Addresses {
		c.done.Go(func() { c.work(ctx, i, c.readOne) })
		if o.Rate > 0 {
			w := &writer{Client: c}
			c.done.Go(func() { c.work(ctx, i, w.write) })
		}
	}
	return c
}

// Close ends the client and returns what it saw wrong.
func (c *Client) Close() error {
	c.stop()
	c.done.Wait()
	return c.Wrong()
}

// Wrong returns the first wrong answer, or nil.
func (c *Client) Wrong() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad
}

// Reset begins a new measurement of gaps.
func (c *Client) Reset() { c.gaps.reset() }

// Gaps returns the gaps since the last Reset.
func (c *Client) Gaps() Gaps { return c.gaps.read() }

// work makes one request each interval while the server is at an address, and
// tries the address whenever no other answers.
func (c *Client) work(ctx context.Context, at int, request func(*conn, int) error) {
	for ctx.Err() == nil {
		if silent, where := c.gaps.silent(time.Now(), silence); silent || where == at {
			c.serve(ctx, at, request)
		}
		time.Sleep(interval)
	}
}

// serve makes requests over one connection until it breaks.
func (c *Client) serve(ctx context.Context, at int, request func(*conn, int) error) {
	conn, err := connect(ctx, c.o.Dial, c.o.Addresses[at])
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for ctx.Err() == nil {
		if err := request(conn, at); err != nil {
			return
		}
		time.Sleep(interval)
	}
}

// readOne reads a record and demands that it is whole and new enough.
func (c *Client) readOne(conn *conn, at int) error {
	i := rand.IntN(c.o.Keys)
	least := c.version(c.acked, i)
	answer, err := conn.ask("GET", Key(i))
	now := time.Now()
	if err != nil && !errors.Is(err, errMissing) {
		return err
	}
	if err == nil {
		err = c.right(i, least, answer)
	}
	if err != nil {
		c.wrong(fmt.Errorf("%s at %s: %w", Key(i), c.o.Addresses[at], err))
		return err
	}
	c.gaps.answered(at, now)
	return nil
}

// right compares a record with what it may be by now.
func (c *Client) right(i int, least uint32, record []byte) error {
	v, err := version(record)
	if err != nil {
		return err
	}
	if most := c.version(c.sent, i); v < least || v > most {
		return fmt.Errorf("version %d, want %d, which was acknowledged, to %d", v, least, most)
	}
	if !bytes.Equal(record, Record(i, v)) {
		return fmt.Errorf("version %d is damaged", v)
	}
	return nil
}

// version returns the version of a key in one of the lists; cold keys have 0.
func (c *Client) version(list []atomic.Uint32, i int) uint32 {
	if i%hotEvery != 0 {
		return 0
	}
	return list[i/hotEvery].Load()
}

func (c *Client) wrong(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bad == nil {
		c.bad = err
	}
}

// writer rewrites hot keys at the set rate. What an outage kept it from
// writing it does not write later.
type writer struct {
	*Client
	credit float64
	last   time.Time
}

// write sends what is due and waits for the answers. A server that is frozen
// keeps the writer at its address waiting, while the other's goes on elsewhere
// with later versions.
func (w *writer) write(conn *conn, _ int) error {
	now := time.Now()
	const most = 10 // at once
	w.credit = min(most, w.credit+now.Sub(w.last).Seconds()*float64(w.o.Rate))
	w.last = now
	n := int(w.credit)
	w.credit -= float64(n)
	hot, versions := make([]int, n), make([]uint32, n)
	return conn.each(n, func(j int) []string {
		hot[j] = rand.IntN(len(w.sent))
		versions[j] = w.sent[hot[j]].Add(1)
		key := hot[j] * hotEvery
		return []string{"SET", Key(key), string(Record(key, versions[j]))}
	}, func(j int, _ []byte) error {
		raise(&w.acked[hot[j]], versions[j])
		return nil
	})
}

// raise sets a version unless it is higher already.
func raise(v *atomic.Uint32, to uint32) {
	for old := v.Load(); old < to && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}

// Check demands of the server at an address that it has all keys, every hot one
// in a version that is not older than the last that was acknowledged, and that
// a sample of records is undamaged.
func (c *Client) Check(ctx context.Context, address string) error {
	conn, err := connect(ctx, c.o.Dial, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	size, err := conn.ask("DBSIZE")
	if err != nil {
		return err
	}
	if string(size) != strconv.Itoa(c.o.Keys) {
		return fmt.Errorf("%s keys, want %d", size, c.o.Keys)
	}
	return errors.Join(c.checkVersions(conn), c.checkSample(conn), c.Wrong())
}

func (c *Client) checkVersions(conn *conn) error {
	least := make([]uint32, len(c.acked))
	for i := range least {
		least[i] = c.acked[i].Load()
	}
	return conn.each(len(least), func(i int) []string {
		return []string{"GETRANGE", Key(i * hotEvery), "0", strconv.Itoa(headLen)}
	}, func(i int, answer []byte) error {
		v, err := version(answer)
		if err == nil && v < least[i] {
			err = fmt.Errorf("version %d, but %d was acknowledged", v, least[i])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", Key(i*hotEvery), err)
		}
		return nil
	})
}

// checkSample reads one record in a hundred whole.
func (c *Client) checkSample(conn *conn) error {
	const every = 101 // hot and cold ones
	n := c.o.Keys / every
	return conn.each(n, func(i int) []string { return []string{"GET", Key(i * every)} },
		func(i int, answer []byte) error {
			// Checked for damage only: versions go on meanwhile.
			if err := c.right(i*every, 0, answer); err != nil {
				return fmt.Errorf("%s: %w", Key(i*every), err)
			}
			return nil
		})
}
