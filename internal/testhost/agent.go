package testhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	agentPort = 7420
	agentLog  = "agent.log"

	// startTime is how long an agent may take until it listens. It is long
	// because a loaded machine is no failure.
	startTime = 20 * time.Second
)

// agentCommand is the command line of a host's agent. Every host of the set
// may send to it and may tell it to send.
func (s *Set) agentCommand() []string {
	args := []string{"migrate", "agent", "--listen", ":" + strconv.Itoa(agentPort)}
	for _, h := range s.hosts {
		args = append(args, "--allow", h.Name, "--allow-operator", h.Name)
	}
	return args
}

func (s *Set) startAgents(env map[string]string) error {
	failed := make(chan error, len(s.hosts))
	for _, h := range s.hosts {
		go func() { failed <- h.StartAgent(env) }()
	}
	var errs []error
	for range s.hosts {
		errs = append(errs, <-failed)
	}
	return errors.Join(errs...)
}

// StartAgent starts the host's agent with env added to its environment, and
// returns when it listens. Its log goes on where it was.
func (h *Host) StartAgent(env map[string]string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	args := []string{"env"}
	for k, v := range env {
		args = append(args, k+"="+v)
	}
	pid, err := h.startLogged(ctx, "/run/host/"+agentLog, append(args, h.set.agentCommand()...)...)
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	agent := h.MachinePID(pid) // found by a look at every process, so once
	for !h.listens() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("agent of host %s does not listen; its log:\n%s", h.Name, h.AgentLog())
		case <-time.After(4 * time.Millisecond):
		}
		if agent == 0 || pidNamespace(agent) == "" {
			return fmt.Errorf("agent of host %s has ended; its log:\n%s", h.Name, h.AgentLog())
		}
	}
	return nil
}

// listens reports whether the agent's UDP port is bound in the host.
func (h *Host) listens() bool {
	port := fmt.Sprintf(":%04X", agentPort)
	for _, file := range []string{"udp", "udp6"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", h.InitPID(), file)) // no file, no port
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && strings.HasSuffix(f[1], port) {
				return true
			}
		}
	}
	return false
}

// AgentPID returns the PID of the host's agent as the machine sees it, or 0 if
// none runs.
func (h *Host) AgentPID() int {
	if pids := h.running("migrate", "agent"); len(pids) > 0 {
		return pids[0]
	}
	return 0
}

// KillAgent kills the host's agent with SIGKILL and returns when it has gone.
func (h *Host) KillAgent() error {
	pid := h.AgentPID()
	if pid == 0 {
		return fmt.Errorf("host %s has no agent", h.Name)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill agent: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	if err := awaitEnd(ctx, pid); err != nil {
		return fmt.Errorf("agent %d of host %s does not die: %w", pid, h.Name, err)
	}
	return nil
}

// AgentLog returns what the host's agents have logged since the set is up.
func (h *Host) AgentLog() string {
	b, _ := os.ReadFile(h.path(agentLog)) // no log, nothing logged
	return string(b)
}
