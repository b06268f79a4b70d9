package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"migrate"
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

// local is the agent's socket for commands on its host. Only root may connect.
type local struct {
	listener net.Listener
	work     sync.WaitGroup
}

func localSocket(runDir string) string { return filepath.Join(runDir, "agent.sock") }

// listenLocal makes the socket. It fails if another agent answers on it.
func listenLocal(runDir string) (*local, error) {
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
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &local{listener: l}, nil
}

// serve answers requests until close.
func (l *local) serve(info agentInfo, d decider) {
	l.work.Go(func() {
		for {
			conn, err := l.listener.Accept()
			if err != nil {
				return
			}
			l.work.Go(func() { answerLocal(conn, info, d) })
		}
	})
}

func (l *local) close() {
	l.listener.Close()
	l.work.Wait()
}

func answerLocal(conn net.Conn, info agentInfo, d decider) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(localTimeout))
	var req localRequest
	if err := json.NewDecoder(conn).Decode(&req); err != nil {
		return
	}
	reply := localReply{Agent: info}
	if err := req.carryOut(d); err != nil {
		f := failureOf(err)
		reply.Failure = &f
	}
	json.NewEncoder(conn).Encode(reply) // the asker's trouble, if it fails
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
	conn, err := net.DialTimeout("unix", localSocket(runDir), 5*time.Second)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return agentInfo{}, errNoAgent
	}
	if err != nil {
		return agentInfo{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(localTimeout))
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return agentInfo{}, err
	}
	var reply localReply
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		return agentInfo{}, fmt.Errorf("answer of the agent: %w", err)
	}
	if reply.Failure != nil {
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
