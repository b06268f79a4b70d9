package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"migrate/internal/redisload"
	"migrate/internal/testhost"
)

const (
	redisPort = 6379
	writes    = 2000 // per second
	// settle is how long the client goes on after the contender has finished.
	settle = 2 * time.Second
	// keysPerGiB fill a redis server to a resident set of 1 GiB.
	keysPerGiB = 930_000
)

// redis compares ways to take a redis server that is in use from one host to
// another over a shaped link. Its client is on a third host. The server is
// filled once and goes to and fro between the hosts, so that every contender
// finds it in the same state.
type redis struct {
	gib  int
	rate string // of the link
}

func (r redis) run(ctx context.Context, name string, runs int) ([]Entry, error) {
	set, err := testhost.Start(testhost.Options{Set: "bench", Rate: r.rate})
	if err != nil {
		return nil, err
	}
	entries := contenders(name, []string{"plain-criu", "criu-lazy"}, trackers)
	entries, err = r.compare(ctx, set, entries, runs)
	return entries, errors.Join(err, set.Down())
}

func (r redis) compare(ctx context.Context, set *testhost.Set, entries []Entry, runs int) ([]Entry, error) {
	server := &server{from: set.Host("A"), to: set.Host("B")}
	keys := r.gib * keysPerGiB
	if err := server.start(ctx, keys); err != nil {
		return nil, err
	}
	client := redisload.Start(redisload.Options{
		Dial: set.Host("C").Dial, Addresses: []string{redisAt(server.from), redisAt(server.to)}, Keys: keys, Rate: writes,
	})
	entries, err := inTurn(entries, runs, func(e *Entry) error { return server.once(ctx, client, e) })
	return entries, errors.Join(err, client.Close())
}

// server is the redis server and where it is.
type server struct {
	pid      int
	from, to *testhost.Host
}

// start starts a server that writes nothing to disk, and fills it.
func (s *server) start(ctx context.Context, keys int) (err error) {
	s.pid, err = s.from.Start(ctx, "redis-server", "--port", strconv.Itoa(redisPort), "--bind", "0.0.0.0",
		"--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/")
	if err != nil {
		return err
	}
	return redisload.Fill(ctx, s.from.Dial, redisAt(s.from), keys)
}

// once has a contender take the server to the other host while the client is
// at work, and checks that nothing was lost.
func (s *server) once(ctx context.Context, client *redisload.Client, e *Entry) error {
	rss, err := resident(s.from, s.pid)
	if err != nil {
		return err
	}
	e.RSS = rss
	client.Reset()
	switch e.Contender {
	case "plain-criu":
		err = copied(ctx, s.from, s.to, e, s.pid)
	case "criu-lazy":
		err = lazily(ctx, s.from, s.to, e, s.pid)
	default:
		err = moved(ctx, s.from, s.to, e, s.pid, "--tcp", "close")
	}
	if err != nil && !errors.Is(err, errUnavailable) {
		return err
	}
	time.Sleep(settle)
	gaps := client.Gaps()
	if wrong := client.Check(ctx, redisAt(s.to)); wrong != nil {
		return errors.Join(err, wrong)
	}
	s.from, s.to = s.to, s.from
	if err != nil {
		return err
	}
	e.Downtime = append(e.Downtime, ms(gaps.Longest()))
	e.Before = append(e.Before, ms(gaps.Before))
	e.After = append(e.After, ms(gaps.After))
	return nil
}

func redisAt(h *testhost.Host) string { return fmt.Sprintf("%s:%d", h.Address(), redisPort) }

// resident returns the resident set of a process on a host.
func resident(h *testhost.Host, pid int) (uint64, error) {
	b, err := os.ReadFile(h.Path(fmt.Sprintf("/proc/%d/status", pid)))
	if err != nil {
		return 0, err
	}
	_, line, _ := strings.Cut(string(b), "VmRSS:")
	var kib uint64
	if _, err := fmt.Sscan(line, &kib); err != nil {
		return 0, fmt.Errorf("resident set: %w", err)
	}
	return kib << 10, nil
}
