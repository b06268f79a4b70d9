package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/transport"
	"migrate/transport/pki"
)

// shortDir is for sockets, whose paths have at most 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mig")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

type fakeDecider struct {
	id  migrate.ID
	run bool
	err error
}

func (d *fakeDecider) Decide(_ context.Context, id migrate.ID, run bool) error {
	d.id, d.run = id, run
	return d.err
}

func TestLocalSocket(t *testing.T) {
	dir := shortDir(t)
	if _, err := askAgent(dir, localRequest{Op: "status"}); !errors.Is(err, errNoAgent) {
		t.Fatalf("without an agent: %v", err)
	}
	l, err := listenLocal(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &fakeDecider{}
	info := agentInfo{Name: "hostA", PID: 7}
	serveLocal(l, info, d)
	if fi, err := os.Stat(localSocket(dir)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi.Mode(), err)
	}
	if got, err := askAgent(dir, localRequest{Op: "status"}); err != nil || got.Name != info.Name || got.PID != 7 {
		t.Errorf("status: %+v, %v", got, err)
	}
	if _, err := askAgent(dir, localRequest{Op: "decide", ID: "00000000000000aa", Run: true}); err != nil || d.id != "00000000000000aa" || !d.run {
		t.Errorf("decide: %+v, %v", d, err)
	}
	d.err = errors.New("no such migration")
	if _, err := askAgent(dir, localRequest{Op: "decide"}); err == nil || err.Error() != "no such migration" {
		t.Errorf("refused: %v", err)
	}
	if _, err := askAgent(dir, localRequest{Op: "dance"}); err == nil {
		t.Error("an unknown request is answered")
	}
	if _, err := listenLocal(t.Context(), dir); err == nil {
		t.Error("a second agent may use the same run directory")
	}
	l.Close()
	again, err := listenLocal(t.Context(), dir) // also over the socket of one that was killed
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestAgentFile(t *testing.T) {
	dir := t.TempDir()
	if got := agentAddress(dir); got != "" {
		t.Errorf("without a file: %q", got)
	}
	if err := writeAgentFile(dir, agentInfo{Advertise: "hostA:7420", PID: 5}); err != nil {
		t.Fatal(err)
	}
	if got := agentAddress(dir); got != "hostA:7420" {
		t.Errorf("got %q", got)
	}
	removeAgentFile(dir, 6)
	if agentAddress(dir) == "" {
		t.Error("another agent's file was removed")
	}
	removeAgentFile(dir, 5)
	if agentAddress(dir) != "" {
		t.Error("the file is still there")
	}
}

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notify("READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	path := filepath.Join(shortDir(t), "n")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("got %q, %v", b[:n], err)
	}
}

func TestMountOf(t *testing.T) {
	for line, want := range map[string][2]string{
		"36 35 0:31 / /run/migrate/store rw,nosuid shared:1 - tmpfs migrate-store rw,size=1k": {"/run/migrate/store", "migrate-store"},
		`36 35 0:31 / /run/a\040b rw - tmpfs tmpfs rw`:                                        {"/run/a b", "tmpfs"},
		"short": {},
	} {
		if p, s := mountOf(line); p != want[0] || s != want[1] {
			t.Errorf("%q: got %q, %q", line, p, s)
		}
	}
}

// TestStore mounts a store for real, on a directory of its own.
func TestStore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	roomy, err := hasRoom(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := mountStore(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	ours, err := storeMounted(dir)
	if err != nil || ours == roomy {
		t.Fatalf("mounted %v on a directory in memory %v, %v", ours, roomy, err)
	}
	if err := mountStore(dir); err != nil { // as an agent that finds the mount of one that was killed
		t.Fatal(err)
	}
	if !ours {
		return
	}
	page := filepath.Join(dir, "page")
	if err := os.WriteFile(page, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unmountStore(dir); err != nil {
		t.Fatal(err)
	}
	if ours, _ := storeMounted(dir); !ours {
		t.Fatal("unmounted although pages are in it")
	}
	if err := os.Remove(page); err != nil {
		t.Fatal(err)
	}
	if err := unmountStore(dir); err != nil {
		t.Fatal(err)
	}
	if ours, _ := storeMounted(dir); ours {
		t.Error("still mounted")
	}
}

// testIdentity makes a certificate of its own.
func testIdentity(t *testing.T, name string) pki.Identity {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(pki.Init(dir, "test-ca"), pki.Issue(dir, dir, name, nil, 0)); err != nil {
		t.Fatal(err)
	}
	id, err := pki.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// fakeAgent answers one session after the other with the given functions.
func fakeAgent(t *testing.T, id pki.Identity, answers ...func(context.Context, *transport.Session)) string {
	t.Helper()
	l, err := transport.Listen("127.0.0.1:0", transport.Config{Identity: id, AllowPeer: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, answer := range answers {
			s, err := l.Accept(ctx)
			if err != nil {
				return
			}
			answer(ctx, s)
		}
		<-ctx.Done()
	}()
	t.Cleanup(func() { cancel(); l.Close(); <-done })
	return l.Addr().String()
}

func TestDriver(t *testing.T) {
	const id = migrate.ID("00000000000000aa")
	done := fixedReport()
	phase := migrate.PreCopy
	event := transport.Progress{Event: migrate.Event{Type: "phase", ID: id, Phase: &phase}}
	result := transport.Progress{Event: migrate.Event{Type: "result", ID: id, Report: done}}
	lose := func(_ context.Context, s *transport.Session) {
		s.Receive(t.Context())
		s.Send(t.Context(), event)
		time.Sleep(100 * time.Millisecond)
		s.Close(transport.CodeShutdown, "")
	}
	reports := func(list ...migrate.Report) func(context.Context, *transport.Session) {
		return func(ctx context.Context, s *transport.Session) {
			s.Receive(ctx)
			s.Send(ctx, transport.StatusReply{Reports: list})
			s.Finish(ctx)
		}
	}
	going := *done
	going.Status = migrate.StatusActive
	for name, c := range map[string]struct {
		answers []func(context.Context, *transport.Session)
		cancel  bool
		want    string // status, or error
	}{
		"moved": {want: "completed", answers: []func(context.Context, *transport.Session){func(ctx context.Context, s *transport.Session) {
			s.Receive(ctx)
			s.Send(ctx, event)
			s.Send(ctx, result)
			s.Finish(ctx)
		}}},
		"refused": {want: "this certificate may not do that", answers: []func(context.Context, *transport.Session){func(ctx context.Context, s *transport.Session) {
			s.Receive(ctx)
			s.Send(ctx, transport.Abort{Failure: migrate.Failure{What: "this certificate may not do that"}})
			s.Finish(ctx)
		}}},
		"cancelled": {want: "completed", cancel: true, answers: []func(context.Context, *transport.Session){func(ctx context.Context, s *transport.Session) {
			s.Receive(ctx)
			s.Send(ctx, event)
			if _, ok := first(s.Receive(ctx)).(transport.Cancel); ok {
				s.Send(ctx, result)
			}
			s.Finish(ctx)
		}}},
		"lost, and asked again": {want: "completed", answers: []func(context.Context, *transport.Session){lose, reports(going), reports(*done)}},
		"lost for good":         {want: "how the move ended is not known", answers: []func(context.Context, *transport.Session){lose}},
	} {
		t.Run(name, func(t *testing.T) {
			identity := testIdentity(t, "hostA")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			events := 0
			d := driver{
				address:  fakeAgent(t, identity, c.answers...),
				config:   transport.Config{Identity: identity, HandshakeTimeout: time.Second, IdleTimeout: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)},
				patience: 5 * time.Second,
				emit: func(migrate.Event) {
					if events++; c.cancel {
						cancel()
					}
				},
			}
			if name == "lost for good" {
				d.patience = time.Second
			}
			report, err := d.drive(ctx, transport.Drive{Source: "process:1", Target: "hostB"})
			got := fmt.Sprint(err)
			if err == nil {
				got = string(report.Status)
			}
			if len(got) < len(c.want) || got[len(got)-len(c.want):] != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if name != "refused" && events != 1 {
				t.Errorf("%d events", events)
			}
		})
	}
}

func first[T any](v T, _ error) T { return v }
