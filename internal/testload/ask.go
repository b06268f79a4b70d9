package testload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Place is where a workload is: it runs a command and returns its standard
// output.
type Place interface {
	Output(ctx context.Context, args ...string) (string, error)
}

// A Network is a place into whose network this process can reach by itself.
type Network interface {
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// Ask sends one request to the workload at address from the place where it is: from
// within this process if at is a [Network] as well, which costs next to nothing, or else by
// "testload query".
func Ask(ctx context.Context, at Place, address, request string) (s Status, err error) {
	var out string
	if n, ok := at.(Network); ok {
		out, err = query(ctx, n.Dial, address, request)
	} else {
		out, err = at.Output(ctx, "testload", "query", address, request)
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// Await asks the workload to verify everything until it answers, for as long
// as ctx lives.
func Await(ctx context.Context, at Place, address string) (Status, error) {
	for {
		s, err := Ask(ctx, at, address, "verify")
		if err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, errors.Join(errors.New("the workload does not answer"), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Check returns what the workload found wrong.
func (s Status) Check() error {
	if s.OK {
		return nil
	}
	return fmt.Errorf("the workload found errors: %q", s.Errors)
}
