package programs

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"migrate/internal/testhost"
)

const nginxConf = `
daemon off;
user root; # as workers of another user cannot be dumped without CAP_SYS_RESOURCE
worker_processes 2;
pid nginx.pid;
error_log error.log;
events { worker_connections 256; }
http {
	access_log access.log;
	client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
	server { listen 0.0.0.0:8080; root .; keepalive_requests 100000; }
}
`

// TestNginx moves a server with clients that keep their connections: they
// connect again, get what they got, and its log has every answer.
func TestNginx(t *testing.T) {
	s := newSite(t)
	content := make([]byte, 100_000)
	_, _ = rand.Read(content) // never fails
	for name, b := range map[string][]byte{"nginx.conf": []byte(nginxConf), "file": content} {
		if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pid := s.start(t, program(t, "/usr/sbin/nginx"), "-p", s.dir, "-e", "error.log", "-c", "nginx.conf")
	surfers := surf(t, s, content)
	for _, hop := range [][2]*testhost.Host{{s.a, s.b}, {s.b, s.a}} {
		surfers.await(t, hop[0])
		move(t, hop[0], pid, hop[1])
		surfers.await(t, hop[1])
	}
	surfers.stop()
	s.a.Run(t, "kill", "-QUIT", strconv.Itoa(pid)) // a graceful end
	awaitExit(t, s.a, 0)
	log, err := os.ReadFile(filepath.Join(s.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	n := int64(bytes.Count(log, []byte("GET /file ")))
	if answers := surfers.answers.Load(); n < answers {
		t.Errorf("the log has %d requests, of which %d were answered", n, answers)
	}
	t.Logf("%d requests, %d answered", n, surfers.answers.Load())
}

// surfers read one file all the time, from wherever the server is.
type surfers struct {
	answers atomic.Int64
	from    map[string]*atomic.Int64 // answers by address
	stop    func()
}

func surf(t *testing.T, s site, want []byte) *surfers {
	ctx, cancel := context.WithCancel(t.Context())
	f := &surfers{from: map[string]*atomic.Int64{s.a.Address(): {}, s.b.Address(): {}}}
	var done sync.WaitGroup
	f.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(f.stop)
	for range 4 {
		done.Go(func() {
			client := &http.Client{Transport: &http.Transport{DialContext: s.c.Dial}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				for address, answers := range f.from {
					for get(ctx, t, client, address, want) {
						f.answers.Add(1)
						answers.Add(1)
					}
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	return f
}

// get reports whether the server at an address answered. A wrong answer fails
// the test.
func get(ctx context.Context, t *testing.T, client *http.Client, address string, want []byte) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:8080/file", address), nil)
	if err != nil {
		t.Error(err)
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return false // cut off in the middle
	}
	if resp.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		t.Errorf("%s: status %d, %d bytes", address, resp.StatusCode, len(got))
		return false
	}
	return true
}

// await waits until a host has given another hundred answers.
func (f *surfers) await(t *testing.T, h *testhost.Host) {
	t.Helper()
	n := f.from[h.Address()]
	enough := n.Load() + 100
	await(t, "answers from "+h.Name, func() bool { return n.Load() > enough })
}
