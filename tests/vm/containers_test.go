package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"migrate"
	"migrate/internal/testload"
)

// containers have an address of their own in the test network, and a client
// there that holds one connection over all moves.
var containers = []scenario{
	{name: "runc, a connection, 50 ms, 0.1 %", always: true, run: func(s *stage) { s.containerHops("runc") }},
	{name: "crun, a connection, 50 ms, 0.1 %", run: func(s *stage) { s.containerHops("crun") }},
}

const containerAddress = "10.99.0.50"

// containerHops moves a container there and, unless it has to be quick, back
// under the eyes of its client.
func (s *stage) containerHops(runtime string) {
	s.Helper()
	s.startContainer(s.a, runtime)
	for _, m := range []*Machine{s.a, s.b} {
		s.sh(m, "tc qdisc replace dev eth1 root netem delay 50ms loss 0.1%")
	}
	before := s.verifyIn(s.a, runtime)
	talk := s.converse(net.JoinHostPort(containerAddress, port))
	hops := [][2]*Machine{{s.a, s.b}, {s.b, s.a}}
	if quick() {
		hops = hops[:1]
	}
	for i, hop := range hops {
		r, code, stderr := s.tryMove(hop[0], runtime+":web", hop[1], "--tcp", "established")
		if code != 0 || r.Status != migrate.StatusCompleted || r.Owner != migrate.OwnerTarget {
			s.Fatalf("hop %d: status %d, %+v\n%s", i+1, code, r, stderr)
		}
		talk.goesOn(s)
		after := s.verifyIn(hop[1], runtime)
		s.checkClocks(r, before, after, 0)
		s.nothingOf(hop[0])
		if left := s.sh(hop[0], runtime+" list -q; ip netns list"); strings.TrimSpace(left) != "" {
			s.Errorf("hop %d: left on %s: %s", i+1, hop[0].Name, left)
		}
		before = after
	}
	n, gap := talk.end(s)
	s.Logf("%d answers over one connection, the longest time between two %v", n, gap.Round(time.Millisecond))
}

// startContainer starts the workload in a container whose network namespace has a
// name, and a macvlan link to the test network.
func (s *stage) startContainer(m *Machine, runtime string) {
	s.Helper()
	s.Cleanup(func() { s.removeContainer(runtime) })
	spec := s.sh(m, `set -e
		mkdir -p /srv/web/rootfs/bin /srv/web/rootfs/proc /srv/web/rootfs/sys /srv/web/rootfs/dev /srv/web/rootfs/tmp
		cp "$(command -v testload)" /srv/web/rootfs/bin/
		ip netns add web
		ip link add link eth1 name web0 type macvlan mode bridge
		ip link set web0 netns web name eth0
		ip -n web address add `+containerAddress+`/24 dev eth0
		ip -n web link set lo up
		ip -n web link set eth0 up
		cd /srv/web; rm -f config.json; `+runtime+` spec; cat config.json`)
	s.sh(m, "cd /srv/web && cat >config.json <<'END'\n"+s.configured(spec)+"\nEND\n"+
		runtime+" --log /srv/web/log run --detach --bundle /srv/web web </dev/null >/dev/null 2>&1 || { cat /srv/web/log >&2; exit 1; }")
}

// configured changes what a runtime writes as a specification.
func (s *stage) configured(spec string) string {
	s.Helper()
	var c map[string]any
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		s.Fatal(err)
	}
	process, linux := c["process"].(map[string]any), c["linux"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"/bin/testload", "--listen", "0.0.0.0:" + port, "--dir", "/tmp", "--memory", "16", "--dirty", "50"}
	c["root"] = map[string]any{"path": "rootfs"}
	for _, n := range linux["namespaces"].([]any) {
		if n := n.(map[string]any); n["type"] == "network" {
			n["path"] = "/run/netns/web"
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		s.Fatal(err)
	}
	return string(b)
}

func (s *stage) removeContainer(runtime string) {
	ctx, cancel := afterwards()
	defer cancel()
	for _, m := range []*Machine{s.a, s.b} {
		_, err := m.Output(ctx, "sh", "-c", runtime+" delete --force web 2>/dev/null; ip netns delete web 2>/dev/null; rm -rf /srv/web")
		if err != nil {
			s.Error(err)
		}
	}
}

// inside is a container on a machine.
type inside struct {
	*Machine
	runtime string
}

func (i inside) Output(ctx context.Context, args ...string) (string, error) {
	return i.Machine.Output(ctx, append([]string{i.runtime, "exec", "web", "/bin/" + args[0]}, args[1:]...)...)
}

// verifyIn has the workload in the container check everything.
func (s *stage) verifyIn(m *Machine, runtime string) testload.Status {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	status, err := testload.Await(ctx, inside{m, runtime}, "127.0.0.1:"+port)
	if err == nil {
		err = status.Check()
	}
	if err != nil {
		s.Fatalf("the container on %s: %v", m.Name, err)
	}
	return status
}

// A conversation is one connection over which numbers go and come back.
type conversation struct {
	conn  net.Conn
	heard chan time.Time // of each answer
	ended chan error
	n     int
	gap   time.Duration
	last  time.Time
}

// converse connects from the test network, as a client beside the machines.
func (s *stage) converse(address string) *conversation {
	s.Helper()
	conn, err := dialIn(s.Context(), s.a.cmd.Process.Pid, address)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	c := &conversation{conn: conn, heard: make(chan time.Time, 1<<16), ended: make(chan error, 1), last: time.Now()}
	go func() {
		defer close(c.heard)
		c.ended <- c.talk()
	}()
	return c
}

// pause is how long a client waits after an answer: one in a hurry keeps a
// processor busy.
const pause = 50 * time.Millisecond

// talk goes on until the connection ends.
func (c *conversation) talk() error {
	in := bufio.NewReader(c.conn)
	for n := 1; ; n++ {
		want := fmt.Sprintf("number %d\n", n)
		if _, err := io.WriteString(c.conn, want); err != nil {
			return err
		}
		got, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%q was answered with %q", want, got)
		}
		c.heard <- time.Now()
		time.Sleep(pause)
	}
}

// goesOn demands more answers.
func (c *conversation) goesOn(s *stage) {
	s.Helper()
	const more = 20
	now := time.Now()
	for after := 0; after < more; {
		select {
		case at, ok := <-c.heard:
			if !ok {
				s.Fatalf("the connection has ended: %v", <-c.ended)
			}
			c.count(at)
			if at.After(now) {
				after++
			}
		case <-time.After(patience):
			s.Fatalf("the connection is silent after %d answers", c.n)
		}
	}
}

func (c *conversation) count(at time.Time) {
	c.n++
	c.gap, c.last = max(c.gap, at.Sub(c.last)), at
}

// end hangs up and returns the number of answers and the longest time between two.
func (c *conversation) end(s *stage) (int, time.Duration) {
	s.Helper()
	c.conn.Close()
	for at := range c.heard {
		c.count(at)
	}
	return c.n, c.gap
}
