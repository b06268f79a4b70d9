package main

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// queue hands values to a function in their order, without ever making the
// one who adds them wait.
type queue[T any] struct {
	take  func(T)
	mu    sync.Mutex
	more  sync.Cond
	list  []T
	ended bool
	done  chan struct{}
}

func newQueue[T any](take func(T)) *queue[T] {
	q := &queue[T]{take: take, done: make(chan struct{})}
	q.more.L = &q.mu
	go q.run()
	return q
}

func (q *queue[T]) add(v T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, v)
	q.more.Signal()
}

// close waits until everything has been handed over, or for limit if that is
// not zero.
func (q *queue[T]) close(limit time.Duration) {
	q.mu.Lock()
	q.ended = true
	q.more.Signal()
	q.mu.Unlock()
	var late <-chan time.Time
	if limit > 0 {
		late = time.After(limit)
	}
	select {
	case <-q.done:
	case <-late:
	}
}

func (q *queue[T]) run() {
	defer close(q.done)
	for {
		q.mu.Lock()
		for len(q.list) == 0 && !q.ended {
			q.more.Wait()
		}
		list := q.list
		q.list = nil
		q.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for _, v := range list {
			q.take(v)
		}
	}
}

// spool is a writer that never blocks its caller. A move reports while its
// workload is frozen, and a terminal that was stopped with Ctrl-S or a pipe that
// nobody reads must not keep it so. What is written waits in memory: a few
// lines a second at most.
type spool struct {
	w     io.Writer
	queue *queue[[]byte]
}

func newSpool(w io.Writer) *spool {
	return &spool{w, newQueue(func(b []byte) { _, _ = w.Write(b) })} // nobody to tell of an error
}

// Write queues p.
func (s *spool) Write(p []byte) (int, error) {
	s.queue.add(bytes.Clone(p))
	return len(p), nil
}

// spooled makes the app's output non-blocking until the function it returns
// is called, which waits until all is written.
func (a *app) spooled() (restore func()) {
	out, err := a.stdout, a.stderr
	so, se := newSpool(out), newSpool(err)
	a.stdout, a.stderr = so, se
	return func() {
		se.queue.close(0)
		so.queue.close(0)
		a.stdout, a.stderr = out, err
	}
}
