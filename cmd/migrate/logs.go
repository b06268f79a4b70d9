package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"migrate/supervisor"
	"migrate/workload"
)

type logsOptions struct {
	follow bool
	stream string
	tail   int
}

const logsLong = `Prints what a workload wrote while it was on this host. What it wrote to standard
error goes to standard error.

Exit status:
  0  done; with --follow: the workload ended or moved away
  1  the command line is wrong
  4  there is no such workload, or its logs cannot be read`

const logsExample = `  migrate logs web
  migrate logs -f --tail 10 --stream stderr web`

func newLogsCommand(a *app) *cobra.Command {
	var opts logsOptions
	cmd := &cobra.Command{
		Use:               "logs NAME",
		Short:             "Print the output of a workload",
		Long:              logsLong,
		Example:           logsExample,
		Args:              exactly("NAME"),
		ValidArgsFunction: completeName(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLogs(cmd.Context(), a, opts, args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.follow, "follow", "f", false, "go on until the workload ends")
	f.StringVar(&opts.stream, "stream", "", "only this one: stdout, stderr or fdN (default: all)")
	f.IntVar(&opts.tail, "tail", -1, "begin with the last N lines of each stream (default: all)")
	completeWords(cmd, "stream", "stdout, stderr")
	return cmd
}

func runLogs(ctx context.Context, a *app, opts logsOptions, args []string) error {
	rec, err := a.workload(args[0])
	if err != nil {
		return err
	}
	l := logs{app: a, name: rec.Name, stream: opts.stream, tails: map[string]*tail{}}
	defer l.close()
	if opts.stream != "" && !opts.follow && !slices.Contains(l.streams(), opts.stream) {
		return advise(fmt.Errorf("%s has no log of %q", rec.Name, opts.stream), "it has: %s", strings.Join(l.streams(), ", "))
	}
	if err := l.copy(opts.tail); err != nil || !opts.follow {
		return err
	}
	return l.follow(ctx)
}

// logs prints the log files of one workload.
type logs struct {
	*app
	name, stream string
	tails        map[string]*tail // by path
}

func (l *logs) paths() ([]string, error) {
	paths, err := supervisor.LogPaths(l.stateDir, l.name)
	return slices.DeleteFunc(paths, func(p string) bool { return l.stream != "" && streamOf(p) != l.stream }), err
}

func (l *logs) streams() []string {
	paths, _ := supervisor.LogPaths(l.stateDir, l.name) // none, if it cannot tell
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = streamOf(p)
	}
	return names
}

func streamOf(path string) string { return strings.TrimSuffix(filepath.Base(path), ".log") }

// copy prints what has been added since the last time. Files that are new are
// printed from their last lines on, or whole if lines is negative.
func (l *logs) copy(lines int) error {
	paths, err := l.paths()
	if err != nil {
		return err
	}
	for _, path := range paths {
		t := l.tails[path]
		if t == nil {
			t = &tail{path: path}
			l.tails[path] = t
			err = t.begin(lines)
		}
		if err == nil {
			err = t.copy(l.writer(path))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *logs) writer(path string) io.Writer {
	if streamOf(path) == "stderr" {
		return l.stderr
	}
	return l.stdout
}

// followEvery is the pace of looking for more.
const followEvery = 100 * time.Millisecond

func (l *logs) follow(ctx context.Context) error {
	for {
		over := l.over() // before the last look
		if err := l.copy(-1); err != nil || over {
			return err
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// over reports whether nothing more will be written: the supervisor records an
// end after the last of the output.
func (l *logs) over() bool {
	rec, err := workload.Load(l.stateDir, l.name)
	return err != nil || !rec.Supervisor.Alive() || rec.State != workload.Running && rec.State != workload.Starting
}

func (l *logs) close() {
	for _, t := range l.tails {
		t.close()
	}
}

// tail reads a log file that grows, and may be renamed to PATH.1 with a new
// one in its place.
type tail struct {
	path string
	file *os.File
}

func (t *tail) open() error {
	f, err := os.Open(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // between a rename and the next write
	}
	t.file = f
	return err
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}

// begin opens the file at its last lines, or at its begin.
func (t *tail) begin(lines int) error {
	if err := t.open(); err != nil || t.file == nil || lines < 0 {
		return err
	}
	at, err := lastLines(t.file, lines)
	if err == nil {
		_, err = t.file.Seek(at, io.SeekStart)
	}
	return err
}

// copy writes what there is to w.
func (t *tail) copy(w io.Writer) error {
	for {
		if t.file == nil {
			if err := t.open(); err != nil || t.file == nil {
				return err
			}
		}
		rotated := t.rotated() // asked first: what was written before is read next
		if _, err := io.Copy(w, t.file); err != nil || !rotated {
			return err
		}
		t.close()
	}
}

func (t *tail) rotated() bool {
	old, err := t.file.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(t.path)
	return err == nil && !os.SameFile(old, now)
}

// lastLines returns where the last n lines of f begin.
func lastLines(f *os.File, n int) (int64, error) {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil || n <= 0 {
		return at, err
	}
	buf := make([]byte, 64<<10)
	for last := true; at > 0; {
		chunk := buf[:min(at, int64(len(buf)))]
		if _, err := f.ReadAt(chunk, at-int64(len(chunk))); err != nil {
			return 0, err
		}
		end := len(chunk)
		if last && chunk[end-1] == '\n' { // it ends a line, and begins none
			end--
		}
		last = false
		for i := bytes.LastIndexByte(chunk[:end], '\n'); i >= 0; i = bytes.LastIndexByte(chunk[:i], '\n') {
			if n--; n == 0 {
				return at - int64(len(chunk)) + int64(i) + 1, nil
			}
		}
		at -= int64(len(chunk))
	}
	return 0, nil
}
