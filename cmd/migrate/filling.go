package main

import (
	"context"
	"fmt"
	"time"

	"migrate"
	"migrate/supervisor"
)

// fillRow is how much of its memory a workload has that runs before all is
// there.
type fillRow struct {
	Done  uint64 `json:"done-bytes"`
	Total uint64 `json:"total-bytes"`
}

func (f fillRow) text() string {
	return fmt.Sprintf("memory %d%% filled in", f.Done*100/max(f.Total, 1))
}

// askTimeout bounds a question to a supervisor, which answers at once.
const askTimeout = time.Second

// filling asks the supervisor of a workload that arrived here about its memory.
// f is nil if all of it is there, or nobody knows; failure is why it will never be.
func (a *app) filling(ctx context.Context, name string) (f *fillRow, failure *migrate.Failure) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := supervisor.Connect(a.runDir, name)
	if err != nil {
		return nil, nil
	}
	defer s.Close()
	st, err := s.State(ctx)
	if err != nil || st.State != supervisor.Running || st.Fill == nil || st.Fill.Complete {
		return nil, nil
	}
	return &fillRow{Done: st.Fill.Done, Total: st.Fill.Total}, st.Fill.Failure
}
