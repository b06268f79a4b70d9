package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"migrate"
	"migrate/internal/control"
)

// A localRequest is what a command on this host asks of the agent, one on a
// connection to agent.sock: "status", or "decide" about a migration that waits
// for its verdict here.
type localRequest struct {
	Op  string     `json:"op"`
	ID  migrate.ID `json:"id,omitempty"`
	Run bool       `json:"run,omitempty"` // decide: let it run here; otherwise remove it
}

// A localReply answers it.
type localReply struct {
	Agent   agentInfo        `json:"agent"`
	Failure *migrate.Failure `json:"failure,omitempty"`
}

// localTimeout bounds a request. A decision restores or kills a tree.
const localTimeout = time.Minute

// decider is the agent's part in a decision.
type decider interface {
	Decide(ctx context.Context, id migrate.ID, run bool) error
}

func localSocket(runDir string) string { return filepath.Join(runDir, "agent.sock") }

// listenLocal makes the agent's socket for commands on its host. It fails if
// another agent answers on it.
func listenLocal(ctx context.Context, runDir string) (*control.Server, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, err
	}
	if info, err := askAgent(runDir, localRequest{Op: "status"}); err == nil {
		return nil, advise(fmt.Errorf("an agent runs already: process %d, listening on %s", info.PID, info.Listen), "stop it, or give this one another --run-dir and --listen")
	}
	path := localSocket(runDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return control.Listen(ctx, path)
}

// serveLocal answers requests until the server is closed.
func serveLocal(s *control.Server, info agentInfo, d decider) {
	control.Serve(s, localTimeout, func(r localRequest) localReply {
		reply := localReply{Agent: info}
		if err := r.carryOut(d); err != nil {
			f := failureOf(err)
			reply.Failure = &f
		}
		return reply
	})
}

func (r localRequest) carryOut(d decider) error {
	switch r.Op {
	case "status":
		return nil
	case "decide":
		ctx, cancel := context.WithTimeout(context.Background(), localTimeout)
		defer cancel()
		return d.Decide(ctx, r.ID, r.Run)
	}
	return fmt.Errorf("unknown request %.40q", r.Op)
}

// errNoAgent means that no agent runs on this host.
var errNoAgent = errors.New("no agent runs on this host")

// askAgent asks the agent of this host.
func askAgent(runDir string, req localRequest) (agentInfo, error) {
	reply, err := control.Ask[localReply](localSocket(runDir), localTimeout, req)
	switch {
	case errors.Is(err, control.ErrNobody):
		return reply.Agent, errNoAgent
	case err != nil:
		return reply.Agent, err
	case reply.Failure != nil:
		return reply.Agent, &refusedError{*reply.Failure}
	}
	return reply.Agent, nil
}

func readAgentFile(runDir string) (info agentInfo, err error) {
	b, err := os.ReadFile(agentFile(runDir))
	if err != nil {
		return info, err
	}
	return info, json.Unmarshal(b, &info)
}

func marshalLine(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}
