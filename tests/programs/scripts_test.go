package programs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"migrate/internal/testhost"
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

// TestSQLite moves a writer of a database with a write-ahead log, which locks the
// file for each row: every row that it said it had committed is there, and the file
// is sound.
func TestSQLite(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(s.dir, "db")
	pid := s.start(t, program(t, "/usr/bin/python3"), "-B", script(t, "writer.py"), strconv.Itoa(statePort), file)
	n := s.progress(t, s.a, 0)
	for _, hop := range [][2]*testhost.Host{{s.a, s.b}, {s.b, s.a}, {s.a, s.b}} {
		move(t, hop[0], pid, hop[1], "--file-locks")
		n = s.progress(t, hop[1], n)
	}
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
