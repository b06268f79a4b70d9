package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/spf13/pflag"

	"migrate"
	"migrate/internal/cordon"
)

// liveAgent is those settings of an agent that can change while it runs.
type liveAgent struct {
	options atomic.Pointer[agentOptions]
	given   map[string][]string // on the command line
	level   *slog.LevelVar
	side    *sourceSide
}

func (l *liveAgent) allows(name string) bool { return slices.Contains(l.options.Load().allow, name) }

func (l *liveAgent) allowsOperator(name string) bool {
	return slices.Contains(l.options.Load().allowOperators, name)
}

// capped returns the smaller of a bandwidth and the agent's own; 0 is none.
func (l *liveAgent) capped(bandwidth int64) int64 {
	own := l.options.Load().bandwidth
	if own == 0 || bandwidth == 0 {
		return max(own, bandwidth)
	}
	return min(own, bandwidth)
}

// cordon does as the setting says, if it has changed.
func (l *liveAgent) cordon(now, before bool) error {
	if now == before {
		return nil
	}
	_, err := cordon.Set(l.side.app.stateDir, cordon.Wish{Off: !now, By: hostname(), Reason: "it is configured so"})
	return err
}

// givenFlags returns what the command line has set.
func givenFlags(flags *pflag.FlagSet) map[string][]string {
	given := map[string][]string{}
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			given[f.Name] = list.GetSlice()
			return
		}
		given[f.Name] = []string{f.Value.String()}
	})
	return given
}

// reloadOnSignal reads the configuration again on SIGHUP, until the function
// that it returns is called. Without a file nothing is read.
func (l *liveAgent) reloadOnSignal(a *app, file string, log *slog.Logger) (stop func()) {
	if file == "" {
		return func() {}
	}
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-signals:
				l.reloadNow(a, file, log)
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(signals); close(done) }
}

// reloadNow tells the service manager too.
func (l *liveAgent) reloadNow(a *app, file string, log *slog.Logger) {
	_ = notify(reloading()) // it is told READY in any case
	if err := l.reload(a, file, log); err != nil {
		f := failureOf(err)
		log.Error("the configuration stays as it was", "cause", f.What, "hint", f.Advice)
	}
	_ = notify("READY=1")
}

// reload reads the file anew and takes over what can change.
func (l *liveAgent) reload(a *app, file string, log *slog.Logger) error {
	next := new(agentOptions)
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	bindAgent(flags, next)
	(&app{stateDir: a.stateDir, runDir: a.runDir, pkiDir: a.pkiDir}).bind(flags)
	for name, words := range l.given {
		for _, w := range words {
			if err := flags.Set(name, w); err != nil {
				return fmt.Errorf("--%s: %w", name, err)
			}
		}
	}
	if err := configure(flags, file); err != nil {
		return err
	}
	if err := next.check(); err != nil {
		return err
	}
	level, err := next.level()
	if err != nil {
		return err
	}
	return l.take(next, level, log)
}

// take has the agent go by new options.
func (l *liveAgent) take(next *agentOptions, level slog.Level, log *slog.Logger) error {
	before := *l.options.Load()
	now := before
	now.allow, now.allowOperators, now.bandwidth, now.cordon, now.logLevel = next.allow, next.allowOperators, next.bandwidth, next.cordon, next.logLevel
	if err := l.cordon(now.cordon, before.cordon); err != nil {
		return err
	}
	l.level.Set(level)
	l.options.Store(&now)
	for id, bandwidth := range l.side.drivenNow() {
		if err := l.side.change(id, bandwidth); err != nil {
			log.Info("bandwidth of a move", "migration", id, "cause", err) // it may be too early or too late
		}
	}
	log.Info("configuration read again", "allow", now.allow, "allow-operator", now.allowOperators, "bandwidth", now.bandwidth, "cordon", now.cordon, "log-level", now.logLevel)
	if next.listen != before.listen || next.advertise != before.advertise || next.idle != before.idle || next.metrics != before.metrics ||
		next.criu != before.criu || next.logFormat != before.logFormat || next.store != "" && next.store != before.store {
		log.Warn("some of the changes need a new start of the agent")
	}
	return nil
}

// drivenNow returns the moves that the agent drives, with the bandwidth that was
// asked for.
func (s *sourceSide) drivenNow() map[migrate.ID]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := map[migrate.ID]int64{}
	for id, b := range s.driving {
		list[id] = b
	}
	return list
}
