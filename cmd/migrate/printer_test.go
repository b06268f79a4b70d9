package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"migrate"
)

// golden compares got with a file, or rewrites it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// told is everything that a move, a check and an error tell.
func told(p printer) {
	const id = "00000000000000aa"
	r := fixedReport()
	phase := func(ph migrate.Phase) { p.event(migrate.Event{Type: "phase", ID: id, Phase: &ph}) }
	phase(migrate.Connect)
	phase(migrate.Preflight)
	p.event(migrate.Event{Type: "warning", ID: id, Warning: &r.Warnings[0]})
	phase(migrate.PreCopy)
	for _, at := range []time.Duration{250 * time.Millisecond, 6 * time.Second, 7 * time.Second, 12 * time.Second} {
		p.event(migrate.Event{Type: "progress", ID: id, Progress: &migrate.Progress{
			Phase: migrate.PreCopy, Round: 1, Done: 43 << 20, Total: 100 << 20, Transferred: 20 << 20, Mbps: 812.4,
			DirtyRate: 31 << 20, Elapsed: migrate.Millis(at), ETA: migrate.Millis(3 * time.Second), Expected: migrate.Millis(80 * time.Millisecond),
			Throttle: int(at / time.Second * 5),
		}})
	}
	for i := range r.Rounds {
		p.event(migrate.Event{Type: "round", ID: id, Round: &r.Rounds[i]})
	}
	p.result(r)

	hostile := &migrate.Failure{What: "it said \x1b[2J", Cause: "line\nfeed", Advice: "look"}
	for _, end := range []migrate.Report{
		{Status: migrate.StatusBlocked, Blockers: []migrate.Finding{{Code: "pid-taken", What: "PID 7 is taken", Advice: "end it"}}},
		{Status: migrate.StatusFailed, Error: hostile, SourceHost: "hostA"},
		{Status: migrate.StatusFailed, Error: hostile},
		{Status: migrate.StatusCancelled, SourceHost: "hostA", Error: &migrate.Failure{What: "the move was cancelled"}},
		{Status: migrate.StatusInDoubt, SourceHost: "hostA", Error: &migrate.Failure{What: "no answer came"}},
	} {
		end.Type, end.ID, end.Workload, end.TargetHost = "result", id, "capsule:web", "hostB"
		p.result(&end)
	}
	p.check(checkResult{Type: "check", Workload: "capsule:web", Source: "hostA", Target: "hostB", Blockers: []migrate.Finding{
		{Code: "pid-taken", What: "PID 7 is taken", Advice: "end it"}, {Code: "arch", What: "another architecture"},
	}, Warnings: r.Warnings})
	p.check(checkResult{Type: "check", Workload: "capsule:web", Source: "hostA", Target: "hostB", Movable: true, Blockers: []migrate.Finding{}, Warnings: []migrate.Finding{}})
	p.failure(*hostile, codeFailed)
}

func TestPrinters(t *testing.T) {
	for _, c := range []struct {
		name        string
		width       int
		quiet, json bool
	}{
		{name: "pipe"}, {name: "terminal", width: 60}, {name: "quiet", quiet: true}, {name: "json", json: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, err bytes.Buffer
			text := &textPrinter{out: &out, err: &err, quiet: c.quiet, width: c.width}
			var p printer = text
			if c.json {
				p = &jsonPrinter{out: &out, text: text}
			}
			told(p)
			screen := strings.NewReplacer("\r", "\\r", "\x1b", "\\e").Replace(err.String())
			golden(t, c.name+".txt", "== standard output\n"+out.String()+"== standard error\n"+screen)
			if c.width > 0 {
				return
			}
			if strings.ContainsAny(out.String()+err.String(), "\x1b\r") {
				t.Error("control characters reach the output")
			}
		})
	}
}

func TestSizesAndDurations(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1000 << 10: "1.0 MiB", 256 << 20: "256.0 MiB", 3 << 30: "3.0 GiB", 5 << 50: "5120.0 TiB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 1234567: "1.23ms", 84250 * time.Microsecond: "84.3ms", 1912500 * time.Microsecond: "1.91s", 61 * time.Second: "1m1s",
	} {
		if got := duration(migrate.Millis(d)); got != want {
			t.Errorf("duration(%v) = %q, want %q", d, got, want)
		}
	}
}
