package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"migrate"
)

// errUnavailable says that this machine cannot run a contender.
var errUnavailable = errors.New("this machine has no such tracker")

// contenders are plain ways, and migrate with each tracker in turn.
func contenders(scenario string, plain []string, trackers []migrate.Tracker) []Entry {
	var list []Entry
	for _, name := range plain {
		list = append(list, Entry{Scenario: scenario, Contender: name})
	}
	for _, t := range trackers {
		list = append(list, Entry{Scenario: scenario, Contender: "migrate", Tracker: string(t)})
	}
	return list
}

// inTurn has every contender do its work as often as is asked, one after the
// other. Those that this machine cannot run are left out.
func inTurn(entries []Entry, runs int, once func(*Entry) error) ([]Entry, error) {
	for i := range runs {
		for j := 0; j < len(entries); j++ {
			e := &entries[j]
			err := once(e)
			if i == 0 && errors.Is(err, errUnavailable) {
				fmt.Fprintf(os.Stderr, "bench: %s: left out: %v\n", e.Scenario, err)
				entries = slices.Delete(entries, j, j+1)
				j--
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", e.Contender, e.Tracker, err)
			}
			fmt.Fprintf(os.Stderr, "bench: %s: run %d: %s %s: %.1f ms\n", e.Scenario, i+1, e.Contender, e.Tracker, e.Downtime[i])
		}
	}
	return entries, nil
}
