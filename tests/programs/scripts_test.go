package programs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"migrate"
)

// script returns the path of a program in testdata.
func script(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPython moves a program of several processes that share memory and
// semaphores and talk over pipes.
func TestPython(t *testing.T) {
	s := newSite(t)
	pid := s.start(t, program(t, "/usr/bin/python3"), "-B", script(t, "pool.py"), strconv.Itoa(statePort))
	s.thereAndBack(t, pid)
}

// TestGo moves a program of many goroutines and timers that has reserved much
// more memory than it has touched, and than the machine has.
func TestGo(t *testing.T) {
	s := newSite(t)
	bin := filepath.Join(s.dir, "sparse")
	run(t, "go", "build", "-o", bin, "./testdata/sparse")
	// Go listens with multipath TCP unless told otherwise, which CRIU cannot carry.
	pid := s.start(t, "env", "GODEBUG=multipathtcp=0", bin, fmt.Sprintf("0.0.0.0:%d", statePort))
	s.thereAndBack(t, pid)
}

// TestJava moves a program of many threads with a large heap.
func TestJava(t *testing.T) {
	s := newSite(t)
	run(t, "javac", "-d", s.dir, script(t, "Threads.java"))
	pid := s.start(t, program(t, "/usr/bin/java"), "-Xmx16g", "-Xms96m", "-Xmn64m", "-XX:+AlwaysPreTouch", "-cp", s.dir, "Threads", strconv.Itoa(statePort))
	s.thereAndBack(t, pid)
}

// TestSQLite moves a writer of a database with a write-ahead log: every row that
// it said it had committed is there, and the file is sound.
func TestSQLite(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(s.dir, "db")
	pid := s.start(t, program(t, "/usr/bin/python3"), "-B", script(t, "writer.py"), strconv.Itoa(statePort), file)
	n := s.moveUnlocked(t, pid, s.progress(t, s.a, 0))
	n = s.progress(t, s.b, n)
	st, err := s.ask(s.b, "exit")
	if err != nil || len(st.Errors) > 0 || st.Progress < n {
		t.Errorf("in the end, after %d: %+v, %v", n, st, err)
	}
	awaitExit(t, s.b, 0)
	got := s.c.Run(t, program(t, "/usr/bin/sqlite3"), file, "pragma integrity_check; select count(*), max(id), sum(length(body)) from log")
	if want := fmt.Sprintf("ok\n%d|%[1]d|%d", st.Progress, st.Progress*200); got != want {
		t.Errorf("the database says %q, want %q", got, want)
	}
	if wal, err := os.Stat(file + "-wal"); err == nil && wal.Size() > 0 {
		t.Errorf("a log of %d bytes is left", wal.Size())
	}
}

// moveUnlocked moves a program whose file has a lock at times. One that is
// frozen in a transaction holds a lock, for which the copy on the other host, with
// the same file, waits in vain: the move is rolled back and the program goes on.
func (s site) moveUnlocked(t *testing.T, pid int, n int64) int64 {
	t.Helper()
	const attempts = 5
	for range attempts {
		r, _, err := tryMove(t, s.a, pid, s.b, "--file-locks", "--freeze-timeout", "2s")
		if err == nil {
			return n
		}
		t.Logf("the move failed: %v", err)
		if r.Owner != migrate.OwnerSource {
			t.Fatalf("the owner is %q", r.Owner)
		}
		n = s.progress(t, s.a, n)
	}
	t.Fatalf("%d moves failed", attempts)
	return n
}
