package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// interruptible returns a context that SIGINT, SIGTERM and SIGHUP cancel with
// cause. said is called with how often one came, from 1. A closed pipe on the
// output is an error there and no longer ends the program: a move that died so
// would leave its workload frozen.
func interruptible(ctx context.Context, cause error, said func(n int)) (context.Context, func()) {
	return interruptedBy(ctx, cause, said, stopSignals()...)
}

// stopSignals returns those that end a command.
func stopSignals() []os.Signal {
	list := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup(1)
		list = append(list, syscall.SIGHUP)
	}
	return list
}

// interruptedBy is interruptible by other signals.
func interruptedBy(ctx context.Context, cause error, said func(n int), by ...os.Signal) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 8)
	broken := make(chan os.Signal, 1)
	signal.Notify(signals, by...)
	signal.Notify(broken, syscall.SIGPIPE) // not ignored: children would inherit that
	done := make(chan struct{})
	go func() {
		for n := 1; ; n++ {
			select {
			case <-signals:
				cancel(cause)
				said(n)
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(broken)
		close(done)
		cancel(nil)
	}
}
