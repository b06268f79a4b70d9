package testhost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// build builds the programs that hosts have in their PATH and returns the
// directory they are in. It builds once in a process; the go command notices
// when there is nothing to do.
func build(withAgent bool) (string, error) {
	if withAgent {
		return buildAgent()
	}
	return buildPlain()
}

var (
	plain      = []string{"./internal/testhost/cmd/hosts", "./internal/testload/cmd/testload"}
	buildPlain = sync.OnceValues(func() (string, error) { return goBuild("plain", plain...) })
	buildAgent = sync.OnceValues(func() (string, error) { return goBuild("agent", append(plain, "./cmd/migrate")...) })
)

func goBuild(kind string, packages ...string) (string, error) {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	if err != nil || root == "." || root == "/dev" {
		return "", errors.Join(errors.New("find the module: run this inside migrate's source tree"), err)
	}
	dir := filepath.Join(root, "build", "hosts", kind)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Test programs of several packages come here at the same time.
	lock, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", dir, err)
	}
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, packages...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", strings.Join(packages, " "), err, out)
	}
	return dir, nil
}
