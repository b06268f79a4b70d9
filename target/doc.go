// Package target receives migrations on the host that workloads move to.
//
// An [Agent] serves QUIC sessions. For each offered workload it answers
// preflight with every blocker at once, reserves memory, stores pages, has the
// workload's own supervisor restore and hold it, votes, and lets it run only on
// the source's Commit, or discards it. Each step is journaled before the source
// can see it. Once it has voted yes it waits for the verdict as long as it
// takes, asking the source; it gives up by itself only if the held copy is
// lost, which it journals before it says so.
//
// The supervisor, not the agent, is the parent of what arrived. An agent that
// dies and starts again finds its migrations in the journal and goes on by the
// recovery table.
package target
