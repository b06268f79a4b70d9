package programs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/testhost"
)

// TestPostgres moves a server while pgbench is at work: what was committed is
// there, once, the books balance, and no table or index is damaged.
func TestPostgres(t *testing.T) {
	s := newSite(t)
	db := postgres{site: s, bin: filepath.Dir(program(t, "/usr/lib/postgresql/*/bin/postgres"))}
	db.start(t)
	committed := 0
	for _, hop := range [][2]*testhost.Host{{s.a, s.b}, {s.b, s.a}} {
		load := db.bench(t, hop[0], 15*time.Second)
		time.Sleep(500 * time.Millisecond)
		move(t, hop[0], db.pid, hop[1])
		committed += load()
		committed += db.bench(t, hop[1], time.Second)()
		db.check(t, hop[1], committed)
	}
	s.a.Run(t, "kill", "-INT", strconv.Itoa(db.pid)) // a fast shutdown
	awaitExit(t, s.a, 0)
}

type postgres struct {
	site
	bin string // directory of its programs
	pid int
}

const postgresSettings = `
listen_addresses = '0.0.0.0'
unix_socket_directories = ''
# Not in /dev/shm, which hosts do not share.
dynamic_shared_memory_type = mmap
`

// start makes a database and starts its server on host A. The server needs an
// IPC namespace of its own, as in a container: it keeps a System V shared memory
// segment, and those cannot be taken out of a namespace that others use.
func (db *postgres) start(t *testing.T) {
	t.Helper()
	run(t, "chown", "postgres:", db.dir)
	data := filepath.Join(db.dir, "data")
	asPostgres := []string{"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"}
	run(t, asPostgres[0], append(asPostgres[1:], db.bin+"/initdb", "-D", data, "--auth=trust", "--no-sync")...)
	add(t, filepath.Join(data, "postgresql.conf"), postgresSettings)
	add(t, filepath.Join(data, "pg_hba.conf"), "host all all 10.77.0.0/24 trust\n")
	if !mayDumpOthers(t) {
		asPostgres = db.asRoot(t, data)
	}
	db.pid = db.site.start(t, append(append([]string{"unshare", "--ipc"}, asPostgres...), db.bin+"/postgres", "-D", data)...)
	await(t, "postgres answers", func() bool {
		_, err := db.c.Output(t.Context(), db.bin+"/pg_isready", "-h", db.a.Address(), "-q")
		return err == nil
	})
	db.query(t, db.a, "create extension amcheck")
	db.c.Run(t, db.bin+"/pgbench", "-h", db.a.Address(), "-U", "postgres", "-i", "-q", "-s", "3", "postgres")
}

// mayDumpOthers reports whether CRIU can dump processes of other users than its
// own: it asks for their limits, for which prlimit(2) wants CAP_SYS_RESOURCE.
func mayDumpOthers(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// asRoot returns what starts a server as root that refuses to be that.
func (db *postgres) asRoot(t *testing.T, data string) []string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("this machine has no CAP_SYS_RESOURCE for root, and no C compiler to do without")
	}
	lib := filepath.Join(db.dir, "onceuser.so")
	run(t, cc, "-shared", "-fPIC", "-O1", "-o", lib, script(t, "onceuser.c"))
	run(t, "chown", "-R", "root:", data)
	return []string{"env", "LD_PRELOAD=" + lib}
}

func add(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func (db *postgres) query(t *testing.T, h *testhost.Host, sql string) string {
	t.Helper()
	return db.c.Run(t, db.bin+"/psql", "-h", h.Address(), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", sql, "postgres")
}

var processed = regexp.MustCompile(`number of transactions actually processed: (\d+)`)

// bench starts pgbench. The returned function waits for its end, which is when
// its connections break if not before, and returns how many transactions were
// acknowledged.
func (db *postgres) bench(t *testing.T, h *testhost.Host, length time.Duration) (committed func() int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), length+patience)
	out := make(chan string)
	go func() {
		defer cancel()
		text, _ := db.c.Output(ctx, db.bin+"/pgbench", "-h", h.Address(), "-U", "postgres", "-n", "-c", "4", "-j", "2",
			"-T", strconv.Itoa(int(length.Seconds())), "postgres") // that it was cut off is no failure
		out <- text
	}()
	return func() int {
		t.Helper()
		text := <-out
		m := processed.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("pgbench on %s said: %s", h.Name, text)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil || n == 0 {
			t.Fatalf("pgbench on %s committed %q", h.Name, m[1])
		}
		return n
	}
}

// check demands that every transaction that was acknowledged is there. Of each
// client of each pgbench that was cut off, one more may be.
func (db *postgres) check(t *testing.T, h *testhost.Host, committed int) {
	t.Helper()
	const clients = 4
	out := db.query(t, h, `select (select count(*) from pgbench_history), (select sum(delta) from pgbench_history),
		(select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), (select sum(bbalance) from pgbench_branches)`)
	var n int
	var sums [4]int64
	if _, err := fmt.Sscan(strings.ReplaceAll(out, "|", " "), &n, &sums[0], &sums[1], &sums[2], &sums[3]); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	if n < committed || n > committed+2*clients || sums[1] != sums[0] || sums[2] != sums[0] || sums[3] != sums[0] {
		t.Errorf("on %s: %d transactions, of which %d were acknowledged; sums %d", h.Name, n, committed, sums)
	}
	t.Logf("on %s: %d transactions, %d acknowledged", h.Name, n, committed)
	db.c.Run(t, db.bin+"/pg_amcheck", "-h", h.Address(), "-U", "postgres", "--heapallindexed", "postgres")
}
