package drain

import (
	"errors"
	"slices"
	"time"

	"migrate"
)

// Undrain returns the record of an undrain that is to bring back to home what a
// drain has moved away.
func Undrain(r Record, home Host, o Options) (Record, error) {
	back := Record{
		ID: migrate.NewID(), Kind: KindUndrain, Of: r.ID, Host: r.Host, By: r.By, Status: Planning, Started: time.Now(),
		Options: o, Targets: []Host{home}, Items: []Item{},
	}
	for _, it := range r.Items {
		if it.State != StateMoved || !o.chosen(migrate.Listed{Ref: it.Ref, Name: it.Name, Kind: it.Kind, Labels: it.Labels}) {
			continue
		}
		item := it
		item.Source, item.Start, item.State, item.Attempts, item.Tries = it.Target, 0, StatePending, []Attempt{}, 0
		item.Target, item.Why, item.Rejected, item.Failure, item.Action = "", "", []Rejection{}, nil, Live
		back.Items = append(back.Items, item)
		if !slices.ContainsFunc(back.Sources, func(h Host) bool { return h.Name == it.Target }) {
			back.Sources = append(back.Sources, named(r.Targets, it.Target))
		}
	}
	if len(back.Items) == 0 {
		return back, errors.New("nothing of this drain is left to bring back")
	}
	return back, nil
}
