package testload

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMemoryNoticesEveryChange(t *testing.T) {
	m, err := newMemory(1, generator{Mixed, 1})
	if err != nil {
		t.Fatal(err)
	}
	m.rewrite(7)
	if err := m.checkAll(); err != nil {
		t.Fatalf("good memory: %v", err)
	}
	page := func(i int) []byte { return append([]byte{}, m.page(i)...) }
	first := make([]byte, pageSize)
	m.gen.page(first, 7, 0)
	for name, content := range map[string][]byte{
		"one bit":      func() []byte { p := page(7); p[4095] ^= 1; return p }(),
		"old version":  first,
		"another page": page(8),
		"zero":         make([]byte, pageSize),
	} {
		good := page(7)
		copy(m.page(7), content)
		if err := m.checkAll(); err == nil || !strings.Contains(err.Error(), "page 7 ") {
			t.Errorf("%s: checkAll = %v, want an error about page 7", name, err)
		}
		copy(m.page(7), good)
	}
}

func TestStepBack(t *testing.T) {
	for _, tt := range []struct {
		before, after reading
		want          string
	}{
		{reading{1, 1, 9}, reading{1, 1, 5}, ""}, // the wall clock may be set
		{reading{5, 6, 0}, reading{4, 7, 0}, "CLOCK_MONOTONIC stepped back by 1 ns"},
		{reading{5, 6, 0}, reading{5, 4, 0}, "CLOCK_BOOTTIME stepped back by 2 ns"},
	} {
		if got := fmt.Sprint(stepBack(tt.before, tt.after)); got != tt.want && (tt.want != "" || got != "<nil>") {
			t.Errorf("stepBack(%v, %v) = %s, want %q", tt.before, tt.after, got, tt.want)
		}
	}
}

func TestWatcherKeepsTheLargestGap(t *testing.T) {
	var w watcher
	ms := int64(time.Millisecond)
	w.tick(reading{0, 10, 0}, reading{ms, 1010, ms})
	w.tick(reading{ms, 0, ms}, reading{2 * ms, 2*ms - 5, 100 * ms})
	w.tick(reading{}, reading{ms, ms, 3 * ms})
	var s Status
	w.fill(&s)
	if s.LargestGap != 99 || s.LargestGapMono != 1 || s.LargestGapAt != 100*ms || s.Gap != 99 {
		t.Errorf("gaps: %+v", s)
	}
	if s.BootLead != 1010-ms && s.BootLead != -5 {
		t.Errorf("boot lead %d", s.BootLead)
	}
	w.reset()
	w.tick(reading{}, reading{ms, ms, 2 * ms})
	if w.fill(&s); s.Gap != 2 || s.LargestGap != 99 || s.Ticks != 4 {
		t.Errorf("after a reset: %+v", s)
	}
}

func TestFilesNoticeEveryChange(t *testing.T) {
	for name, harm := range map[string]func(*files) error{
		"record lost":     func(f *files) error { return f.appended.Truncate(8) },
		"record too many": func(f *files) error { _, err := f.appended.Write(make([]byte, 8)); return err },
		"record changed":  func(f *files) error { return os.WriteFile(f.appended.Name(), make([]byte, 16), 0) },
		"deleted file":    func(f *files) error { _, err := f.deleted.WriteAt([]byte("harm"), 99); return err },
	} {
		f, err := newFiles(t.TempDir(), false, generator{Mixed, 1})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := f.step(); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.checkAll(); err != nil {
			t.Fatalf("good files: %v", err)
		}
		if err := harm(f); err != nil {
			t.Fatal(err)
		}
		if err := f.checkAll(); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
	f, err := newFiles("", false, generator{Mixed, 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.read.Seek(1, 1); err != nil {
		t.Fatal(err)
	}
	if err := f.step(); err == nil {
		t.Error("lost offset: not noticed")
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(f.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left", f.dir)
	}
}

func TestConfig(t *testing.T) {
	for args, ok := range map[string]bool{
		"":                               true,
		"--memory 0":                     false,
		"--fill random":                  true,
		"--hot 0":                        false,
		"--hot 1.5":                      false,
		"--dirty -1":                     false,
		"--threads 0":                    false,
		"--children 0":                   true,
		"--heartbeat 1s --listen [::]:1": true,
	} {
		var c Config
		f := flag.NewFlagSet("", flag.ContinueOnError)
		c.Flags(f)
		if err := f.Parse(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		if err := c.validate(); (err == nil) != ok {
			t.Errorf("validate(%s) = %v, want ok %t", args, err, ok)
		}
	}
}

// TestListener asks a workload that runs in this process.
func TestListener(t *testing.T) {
	var c Config
	c.Flags(flag.NewFlagSet("", flag.ContinueOnError))
	c.Memory, c.Children, c.Listen, c.Dir = 1, 0, freeAddress(t), t.TempDir()
	ended := make(chan int)
	go func() {
		code, err := Run(c)
		if err != nil {
			t.Error(err)
		}
		ended <- code
	}()
	ask := func(request string) string {
		for range 500 {
			if answer, err := Query(t.Context(), c.Listen, request); err == nil {
				return answer
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s: no answer", request)
		return ""
	}
	if got := ask("hello you"); got != "hello you" {
		t.Errorf("echo = %q", got)
	}
	var s Status
	if err := json.Unmarshal([]byte(ask("verify")), &s); err != nil || !s.OK || s.PagesChecked < 256 {
		t.Errorf("verify = %+v, %v", s, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if seen, err := Watch(ctx, time.Millisecond, c.Listen); err != nil || seen.Answered < 10 || seen.LargestGap == 0 {
		t.Errorf("Watch = %+v, %v", seen, err)
	}
	ask("exit 5")
	if code := <-ended; code != 5 {
		t.Errorf("exit status %d, want 5", code)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
