package source

import (
	"cmp"
	"fmt"
	"strings"
	"sync"
	"time"

	"migrate"
	"migrate/predump"
)

// Settings are those options of a move that can be changed while it runs. What
// is nil stays as it is.
type Settings struct {
	Bandwidth     *int64                 `json:"bandwidth,omitempty"`
	DowntimeLimit *time.Duration         `json:"downtime-limit,omitempty"`
	MaxRounds     *int                   `json:"max-rounds,omitempty"`
	TimeoutAction *migrate.TimeoutAction `json:"timeout-action,omitempty"`
	AutoConverge  *migrate.Throttle      `json:"auto-converge,omitempty"`
}

// Apply returns o with the settings changed. It does not look at them; see
// [migrate.Options.Validate].
func (s Settings) Apply(o migrate.Options) migrate.Options {
	o.Bandwidth = *cmp.Or(s.Bandwidth, &o.Bandwidth)
	o.DowntimeLimit = *cmp.Or(s.DowntimeLimit, &o.DowntimeLimit)
	o.MaxRounds = *cmp.Or(s.MaxRounds, &o.MaxRounds)
	o.TimeoutAction = *cmp.Or(s.TimeoutAction, &o.TimeoutAction)
	o.AutoConverge = *cmp.Or(s.AutoConverge, &o.AutoConverge)
	return o
}

// early reports whether s changes anything that only matters before the freeze.
func (s Settings) early() bool {
	return s.DowntimeLimit != nil || s.MaxRounds != nil || s.TimeoutAction != nil || s.AutoConverge != nil
}

// liveSettings are a move's options as they are now. It is safe for concurrent
// use; whoever goes by them asks again each time.
type liveSettings struct {
	mu      sync.Mutex
	options migrate.Options
	capped  func(bytesPerSecond int64)
}

func newLiveSettings(o migrate.Options) *liveSettings {
	return &liveSettings{options: o, capped: func(int64) {}}
}

// now returns the options as they are now.
func (l *liveSettings) now() migrate.Options {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.options
}

// limits returns what of them the policy goes by.
func (l *liveSettings) limits() predump.Limits {
	o := l.now()
	return predump.Limits{
		Downtime: o.DowntimeLimit, MaxRounds: o.MaxRounds,
		Timeout: o.Timeout, TimeoutAction: o.TimeoutAction, AutoConverge: o.AutoConverge,
	}
}

// stopThrottling turns auto-converge off.
func (l *liveSettings) stopThrottling() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.options.AutoConverge = migrate.Throttle{}
}

// onBandwidth has f called with the cap, now and whenever it is changed, one
// call at a time. The f before is not called any more.
func (l *liveSettings) onBandwidth(f func(bytesPerSecond int64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.capped = f
	f(l.options.Bandwidth)
}

// change takes all of s, or nothing and says what is wrong with it.
func (l *liveSettings) change(s Settings) (migrate.Options, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := s.Apply(l.options)
	if err := o.Validate(); err != nil {
		return l.options, fmt.Errorf("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	l.options = o
	if s.Bandwidth != nil {
		l.capped(o.Bandwidth)
	}
	return o, nil
}
