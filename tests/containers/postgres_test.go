package containers

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/testhost"
)

// bench runs pgbench without end, and beside it inserts numbered rows. What was
// acknowledged is written down, outside of the database.
const bench = `export PATH=%[1]s:/usr/bin LD_PRELOAD=/onceuser.so PGHOST=/tmp PGUSER=postgres
postgres -D /data/db >/data/db.log 2>&1 &
while ! pg_isready -q; do sleep 0.1; done
psql -qc 'create extension amcheck' -c 'create table numbered (n bigint primary key)' && pgbench -i -q >/dev/null 2>&1
pgbench -n -c 2 -R 200 -T 100000 >/data/bench.log 2>&1 &
n=0; while psql -qc "insert into numbered values ($((n+1)))"; do n=$((n+1)); echo $n >/data/new; mv /data/new /data/acked; sleep 0.05; done
sleep 100000`

// TestPostgres moves a container with a database that flushes every commit, there and
// back, while clients in it write.
func TestPostgres(t *testing.T) {
	t.Parallel()
	programs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	cc, err := exec.LookPath("cc")
	if err != nil || len(programs) == 0 {
		t.Skip("this machine has no PostgreSQL, or no C compiler for what lets it run as root")
	}
	bin := filepath.Dir(programs[0])
	a, b := pair(t, nil)
	apart(t, a, b)
	c := start(t, a, "runc", "db", database(t, a, bin, cc), "/bin/sh", "-c", fmt.Sprintf(bench, bin))
	acked := func(h *testhost.Host) int {
		n, _ := strconv.Atoi(strings.TrimSpace(h.Run(t, "sh", "-c", "cat "+own+"/c/rootfs/data/acked 2>/dev/null; true")))
		return n
	}
	for _, hop := range [][2]*testhost.Host{{a, b}, {b, a}} {
		before := acked(hop[0])
		await(t, "rows are inserted", func() bool { return acked(hop[0]) > before+20 })
		r := c.move(t, hop[0], hop[1])
		sent(t, r, own+"/c/rootfs")
		t.Logf("downtime %v, frozen %v", r.Downtime, r.FrozenTime)
		before = acked(hop[1])
		await(t, "rows are inserted", func() bool { return acked(hop[1]) > before+20 })
		c.checkDatabase(t, hop[1], bin, acked(hop[1]))
	}
	c.remove(a)
}

// database has a root file system with a fresh database in it, and the programs of the
// host mounted.
func database(t *testing.T, h *testhost.Host, bin, cc string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		plainRoot(t, h)(s)
		root := s.Root.Path
		h.Run(t, "sh", "-c", "cd "+root+" && mkdir -p usr etc && ln -s usr/lib lib && ln -s usr/lib64 lib64 && cp /etc/passwd /etc/group etc/ && mkdir data/db && chown postgres data/db")
		h.Run(t, "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", bin+"/initdb", "-D", root+"/data/db", "--auth=trust", "--no-sync", "--no-locale")
		h.Run(t, "sh", "-c", "cd "+root+"/data && chown -R root: db && printf \"listen_addresses = ''\\nunix_socket_directories = '/tmp'\\n\" >>db/postgresql.conf")
		h.Run(t, cc, "-shared", "-fPIC", "-O1", "-o", root+"/onceuser.so", programsData(t, "onceuser.c"))
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/usr", Type: "bind", Source: "/usr", Options: []string{"rbind", "ro"}})
	}
}

func programsData(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "programs", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// checkDatabase demands that every row that was acknowledged is there, once, and that
// the database is whole.
func (c container) checkDatabase(t *testing.T, h *testhost.Host, bin string, acked int) {
	t.Helper()
	run := func(args string) string {
		return c.exec(t, h, "/bin/sh", "-c", "export PATH="+bin+":/usr/bin PGHOST=/tmp PGUSER=postgres; "+args)
	}
	out := run(`psql -Atc "select count(*), max(n) from numbered" -c "select (select sum(delta) from pgbench_history) = (select sum(abalance) from pgbench_accounts)"`)
	f := strings.FieldsFunc(out, func(r rune) bool { return r == '|' || r == '\n' })
	if len(f) != 3 || f[0] != f[1] || f[2] != "t" {
		t.Errorf("on %s the database says %q", h.Name, out)
	}
	if n, err := strconv.Atoi(f[0]); err != nil || n < acked {
		t.Errorf("on %s: %d rows of %d acknowledged, %v", h.Name, n, acked, err)
	}
	run("pg_amcheck --heapallindexed postgres")
	if log := c.exec(t, h, "cat", "/data/bench.log"); strings.Contains(log, "error") || strings.Contains(log, "aborted") {
		t.Errorf("pgbench on %s: %s", h.Name, log)
	}
}
