package hosts

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"migrate"
	"migrate/internal/testhost"
)

// grower is a program that has 24 MiB, which do not compress, and takes 320 MiB
// more when a file is there. It ends with status 0 if all is as written then.
const grower = `
import os, sys, time, mmap
dir = sys.argv[1]
keep = os.urandom(24 << 20)
sum0 = hash(keep)
def wait(name):
    while not os.path.exists(dir + "/" + name): time.sleep(0.01)
wait("grow")
m = mmap.mmap(-1, 320 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(m), 4096): m[at:at+8] = at.to_bytes(8, "little")
open(dir + "/grown", "w").close()
wait("check")
bad = [at for at in range(0, len(m), 4096) if m[at:at+8] != at.to_bytes(8, "little")]
sys.exit(3 if bad or hash(bytes(bytearray(keep))) != sum0 else 0)
`

// TestGrowingWorkload moves a program that takes many times what it had in
// preflight while its memory is copied.
func TestGrowingWorkload(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	for _, restore := range []migrate.RestoreMode{migrate.RestoreEager, migrate.RestoreLazy} {
		t.Run(string(restore), func(t *testing.T) {
			dir := t.TempDir()
			pid, err := a.Start(t.Context(), "/usr/bin/python3", "-c", grower, dir)
			if err != nil {
				t.Fatal(err)
			}
			awaitMemory(t, a, pid, 24<<10)
			done := make(chan migrate.Report, 1)
			go func() {
				r, code, stderr := tryMove(t, a, fmt.Sprintf("process:%d", pid), "B", "--bandwidth", "6MiB", "--restore", string(restore), "--verify")
				if code != 0 {
					t.Errorf("exit code %d, error %+v\n%s", code, r.Error, stderr)
				}
				done <- r
			}()
			await(t, "pages are sent", func() bool { return progress(t, a).Transferred > 1<<20 })
			a.Run(t, "touch", dir+"/grow")
			r := <-done
			if _, err := a.Output(t.Context(), "test", "-e", dir+"/grown"); err != nil {
				t.Fatalf("it had not grown when it was moved: %+v", r)
			}
			b.Run(t, "touch", dir+"/check")
			awaitEnd(t, b, pid)
		})
	}
}

// awaitMemory waits until a process has so much memory.
func awaitMemory(t *testing.T, h *testhost.Host, pid, kib int) {
	t.Helper()
	await(t, "the program has its memory", func() bool {
		var have int
		out := h.Run(t, "sh", "-c", fmt.Sprintf("grep ^RssAnon /proc/%d/status", pid))
		fmt.Sscanf(strings.TrimSpace(strings.TrimPrefix(out, "RssAnon:")), "%d", &have)
		return have >= kib
	})
}

// awaitEnd waits until a program that came to a host has ended well.
func awaitEnd(t *testing.T, h *testhost.Host, pid int) {
	t.Helper()
	ended := regexp.MustCompile(fmt.Sprintf(`(?m)^process-%d .* exited \(0\) `, pid))
	await(t, "it ended well", func() bool { return ended.MatchString(h.Run(t, "migrate", "ps", "--all")) })
}
