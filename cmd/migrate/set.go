package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"migrate"
	"migrate/source"
)

const setLong = `Changes settings of a migration of which this host is the source, while it goes
on, whether "migrate move" or an agent drives it. Either all of them are
changed or, when one is wrong, none. They have the names and values of the flags
of "migrate move":

  bandwidth=RATE            cap on the wire; 0 is none
  downtime-limit=DURATION   downtime to aim at
  max-rounds=NUMBER         rounds of copying ahead, from the start
  timeout-action=ACTION     auto, suspend or cancel
  auto-converge=HOW         on, off or INITIAL,STEP,MAX

Once the workload is frozen only the bandwidth can be changed. The settings as
they are then go to standard output.

Exit status:
  0  changed
  1  the command line is wrong
  4  it could not be changed: the migration is over, or not of this host`

const setExample = `  migrate set 0123456789abcdef bandwidth=200MiB
  migrate set 0123456789abcdef downtime-limit=1s auto-converge=on
  migrate set 0123456789abcdef timeout-action=auto   # do not hold out any longer`

func newSetCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "set ID NAME=VALUE...",
		Short:             "Change settings of a migration under way",
		Long:              setLong,
		Example:           setExample,
		Args:              atLeastTwo("ID", "NAME=VALUE"),
		ValidArgsFunction: completeSettings(a),
		RunE: func(_ *cobra.Command, args []string) error {
			return runSet(a, args[0], args[1:])
		},
	}
	a.bindJSON(cmd.Flags())
	return cmd
}

// atLeastTwo accepts one argument, and then one or more.
func atLeastTwo(first, others string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) >= 2 {
			return nil
		}
		return usagef("want %s %s, got %s", first, others, count(len(args), "argument"))
	}
}

func runSet(a *app, arg string, pairs []string) error {
	id, err := migrate.ParseID(arg)
	if err != nil {
		return &usageError{err}
	}
	s, err := parseSettings(pairs)
	if err != nil {
		return err
	}
	now, err := source.Change(a.runDir, id, s)
	if errors.Is(err, source.ErrNotLive) {
		return a.whyNotLive(id, "change")
	}
	if err != nil {
		return fmt.Errorf("migration %s: %w", id, err)
	}
	a.printer().list([]string{"ID", "BANDWIDTH", "DOWNTIME LIMIT", "MAX ROUNDS", "TIMEOUT ACTION", "AUTO-CONVERGE"},
		[]row{settingsOf(id, now)})
	return nil
}

// settingNames lists what can be set, with what to offer for it.
var settingNames = []struct{ name, words string }{
	{"bandwidth", "0"}, {"downtime-limit", ""}, {"max-rounds", ""},
	{"timeout-action", "auto, suspend, cancel"}, {"auto-converge", "on, off"},
}

// parseSettings reads NAME=VALUE words and checks them as the flags are.
func parseSettings(pairs []string) (source.Settings, error) {
	var s source.Settings
	seen := map[string]bool{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return s, usagef("%.80q: want NAME=VALUE", pair)
		}
		if seen[name] {
			return s, usagef("%s is there twice", name)
		}
		seen[name] = true
		if err := parseSetting(&s, name, value); err != nil {
			return s, usagef("%.40s: %w", name, err)
		}
	}
	if err := s.Apply(migrate.Options{}.WithDefaults()).Validate(); err != nil {
		return s, &usageError{err}
	}
	return s, nil
}

func parseSetting(s *source.Settings, name, value string) error {
	switch name {
	case "bandwidth":
		return parsed(&s.Bandwidth, value, func(v string) (int64, error) { n, err := parseRate(v); return int64(n), err })
	case "downtime-limit":
		return parsed(&s.DowntimeLimit, value, time.ParseDuration)
	case "max-rounds":
		return parsed(&s.MaxRounds, value, strconv.Atoi)
	case "timeout-action":
		return parsed(&s.TimeoutAction, value, func(v string) (migrate.TimeoutAction, error) { return migrate.TimeoutAction(v), nil })
	case "auto-converge":
		return parsed(&s.AutoConverge, value, migrate.ParseThrottle)
	}
	names := make([]string, len(settingNames))
	for i, n := range settingNames {
		names[i] = n.name
	}
	return fmt.Errorf("no such setting; there are %s", strings.Join(names, ", "))
}

// parsed points to to what parse makes of value.
func parsed[T any](to **T, value string, parse func(string) (T, error)) error {
	v, err := parse(value)
	*to = &v
	return err
}

// completeSettings offers migrations under way, and then names and values.
func completeSettings(a *app) cobra.CompletionFunc {
	ids := completeID(a, false)
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return ids(cmd, args, word)
		}
		var offers []string
		name, _, whole := strings.Cut(word, "=")
		for _, s := range settingNames {
			switch {
			case !whole:
				offers = append(offers, s.name+"=")
			case s.name == name && s.words != "":
				for w := range strings.SplitSeq(s.words, ", ") {
					offers = append(offers, name+"="+w)
				}
			}
		}
		return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// settingsRow is what can be changed of a migration under way, as it is now.
type settingsRow struct {
	Type          string                `json:"type"` // always "settings"
	ID            migrate.ID            `json:"id"`
	Bandwidth     int64                 `json:"bandwidth-bytes-per-second"`
	DowntimeLimit migrate.Millis        `json:"downtime-limit-ms"`
	MaxRounds     int                   `json:"max-rounds"`
	TimeoutAction migrate.TimeoutAction `json:"timeout-action"`
	AutoConverge  string                `json:"auto-converge"`
}

func settingsOf(id migrate.ID, o migrate.Options) settingsRow {
	return settingsRow{
		Type: "settings", ID: id, Bandwidth: o.Bandwidth, DowntimeLimit: migrate.Millis(o.DowntimeLimit),
		MaxRounds: o.MaxRounds, TimeoutAction: o.TimeoutAction, AutoConverge: o.AutoConverge.String(),
	}
}

func (r settingsRow) cells() []string {
	bandwidth := "no cap"
	if r.Bandwidth > 0 {
		bandwidth = size(uint64(r.Bandwidth)) + "/s"
	}
	return []string{string(r.ID), bandwidth, duration(r.DowntimeLimit), strconv.Itoa(r.MaxRounds), string(r.TimeoutAction), r.AutoConverge}
}
