package containers

import (
	"context"
	"strings"
	"testing"
	"time"

	"migrate/internal/testhost"
)

// A fall is what happens to a move of a container with connections, and where.
type fall struct {
	point  string
	victim string // "cancel" is Ctrl-C; else what is killed
	on     string // where the container is in the end: "source", "target" or "" for one of them
}

// falls are those of the matrices of this package and of package hosts in which there
// is a network to unlock, to open or to remove.
var falls = []fall{
	{"source:prepare", "cancel", "source"},
	{"source:prepare", "migrate move", "source"},
	{"target:prepare", "migrate agent", "source"},
	{"source:pre-copy", "cancel", "source"}, // the namespace has its name on the target
	{"source:pre-copy", "migrate supervise", "source"},
	{"source:pre-copy", "migrate move", "source"},
	{"source:frozen", "cancel", "source"}, // locked
	{"source:frozen", "migrate move", "source"},
	{"source:post-dump", "cancel", "source"},
	{"source:post-dump", "migrate move", "source"},
	{"target:restore", "migrate agent", "source"},
	{"target:restore", "migrate supervise", "source"},
	{"supervisor:restored", "swrk", "source"}, // filled
	{"supervisor:restored", "migrate supervise", "source"},
	{"source:restore", "cancel", "source"},
	{"source:before-commit", "migrate move", "source"},
	{"target:voted", "migrate agent", ""},       // the vote may have arrived
	{"source:commit", "migrate move", "target"}, // in doubt
	{"target:commit", "migrate agent", "target"},
	{"source:finish", "migrate move", "target"},
	{"source:finishing", "migrate move", "target"},
	{"supervisor:pre-resume", "migrate supervise", "target"}, // let go, and not opened yet
}

// TestConnectionsSurvive has a move fall at each place: connections go on wherever the
// container is then, and nothing of its network is on the other host.
func TestConnectionsSurvive(t *testing.T) {
	t.Parallel()
	l := newLAN(t, testhost.Options{AgentEnv: shortIdle}, "br0")
	c := l.redis(t, l.a, "runc", "redis", true, "10.77.0.50/24", "fd77::50/64")
	clients := count(t, l.client, "10.77.0.50:6379", 10, restful)
	for _, f := range someOf(falls, 4) {
		from, to := l.where(c)
		ok := t.Run(f.point+"/"+strings.ReplaceAll(f.victim, " ", "-"), func(t *testing.T) {
			clients.check(t)
			l.fall(t, c, f, from, to)
			clients.check(t)
			where, other := l.where(c)
			if f.on == "source" && where != from || f.on == "target" && where != to {
				t.Errorf("it is on %s", where.Name)
			}
			if status, _ := c.state(where); status != "running" {
				t.Errorf("on %s it is %q", where.Name, status)
			}
			traceless(t, other)
			c.gone(t, other)
			if got := where.Run(t, "ip", "netns", "exec", c.id, "nft", "list", "tables"); got != "" {
				t.Errorf("left in the namespace: %s", got)
			}
		})
		if !ok {
			return
		}
	}
	from, to := l.where(c)
	clients.hop(t, c, from, to)
	clients.stop(t)
	c.remove(to)
	traceless(t, to)
}

// where returns the host that the container is on, and the other.
func (l lan) where(c container) (here, there *testhost.Host) {
	if status, _ := c.state(l.a); status != "" {
		return l.a, l.b
	}
	return l.b, l.a
}

// fall begins a move, has it fall, and recovers both hosts.
func (l lan) fall(t *testing.T, c container, f fall, from, to *testhost.Host) {
	t.Helper()
	env := map[string]string{"MIGRATE_FAILPOINT": f.point, "MIGRATE_FAILPOINT_LOG": pointLog, "MIGRATE_IDLE_TIMEOUT": "1s"}
	from.Run(t, "rm", "-f", pointLog)
	to.Run(t, "rm", "-f", pointLog)
	args := []string{"migrate", "move", c.ref(), to.Name, "--json", "--tcp", "established", "--commit-timeout", "3s", "--freeze-timeout", "20s"}
	if strings.HasPrefix(f.point, "source:") {
		for k, v := range env {
			args = append([]string{k + "=" + v}, args...)
		}
	} else {
		restartAgent(t, to, env)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := from.Command(ctx, "env", args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(out.String())
		}
	}()
	await(t, "the move comes to "+f.point, func() bool { return reached(f.point, from, to) })
	f.happen(t, from, to)
	for _, h := range []*testhost.Host{from, to} {
		h.Run(t, "sh", "-c", "pkill -CONT migrate; true")
	}
	awaitEnd(t, cmd, &out)
	restartAgent(t, to, shortIdle)
	await(t, "one copy is left", func() bool {
		known := 0
		for _, h := range []*testhost.Host{from, to} {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_, _ = h.Output(ctx, "migrate", "recover")
			cancel()
			if status, _ := c.state(h); status != "" {
				known++
			}
		}
		return known == 1
	})
}

func (f fall) happen(t *testing.T, from, to *testhost.Host) {
	t.Helper()
	if f.victim != "cancel" {
		kill(t, cell{f.point, f.victim, ""}, from, to)
		return
	}
	from.Run(t, "pkill", "-INT", "-f", "--", "[m]igrate move")
}
