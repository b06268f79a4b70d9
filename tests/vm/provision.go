package vm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// programs are built from the source tree; all but the first are copied into
// the machines.
var programs = []string{"./tests/vm/cmd/guest", "./cmd/migrate", "./internal/testload/cmd/testload"}

// buildPrograms builds them and returns their directory.
func buildPrograms(ctx context.Context, root string) (string, error) {
	dir := filepath.Join(root, "build", "vm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", dir + "/"}, programs...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", strings.Join(programs, " "), err, out)
	}
	return dir, nil
}

// SourceTree returns the root of migrate's source tree that the process is in.
func SourceTree() (string, error) {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	if err != nil || root == "." || root == "/dev" {
		return "", errors.Join(errors.New("run this inside migrate's source tree"), err)
	}
	return root, nil
}

// provision makes migrate's hosts of guests: programs, names, and unless they
// are to be bare, certificates and agents. It uses dir.
func provision(ctx context.Context, guests []Guest, bin, dir string, bare bool) error {
	var names strings.Builder
	fmt.Fprintln(&names, "127.0.0.1 localhost")
	for _, g := range guests {
		fmt.Fprintln(&names, g.IP(), g.Name)
	}
	err := each(guests, func(g Guest) error {
		return errors.Join(putPrograms(ctx, g, bin), g.Put(ctx, "/etc/hosts", 0o644, strings.NewReader(names.String())))
	})
	if err != nil || bare {
		return err
	}
	var hosts []Host
	for _, g := range guests {
		hosts = append(hosts, g.Host)
	}
	if err := certificates(ctx, hosts, bin, dir); err != nil {
		return err
	}
	return each(guests, func(g Guest) error {
		if err := g.putDir(ctx, filepath.Join(dir, g.Name), "/etc/migrate/pki"); err != nil {
			return err
		}
		return startAgent(ctx, g, guests)
	})
}

// each calls f for all guests side by side.
func each(guests []Guest, f func(Guest) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(guests))
	for i, g := range guests {
		wg.Go(func() { errs[i] = f(g) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func putPrograms(ctx context.Context, g Guest, bin string) error {
	for _, p := range programs[1:] {
		name := filepath.Base(p)
		if err := g.PutFile(ctx, filepath.Join(bin, name), "/usr/local/bin/"+name); err != nil {
			return err
		}
	}
	return nil
}

// putDir copies the files of a directory.
func (g Guest) putDir(ctx context.Context, from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := g.PutFile(ctx, filepath.Join(from, e.Name()), to+"/"+e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// certificates issues one for each host, in a directory of its name in dir.
func certificates(ctx context.Context, hosts []Host, bin, dir string) error {
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "migrate"), append(args, "--pki-dir", filepath.Join(dir, "pki"))...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("migrate %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := run("pki", "init"); err != nil {
		return err
	}
	for _, h := range hosts {
		if err := run("pki", "issue", h.Name, "--san", h.IP(), "--out", filepath.Join(dir, h.Name)); err != nil {
			return err
		}
	}
	return nil
}

// What a guest has of its agent.
const (
	agentLog = "/var/log/migrate-agent.log"
	agentPID = "/run/migrate-agent.pid"
)

// agentScript starts an agent, with the arguments it is given, and waits until
// it is ready. The Vagrantfile runs it as well.
//
//go:embed agent.sh
var agentScript string

// startAgent starts a guest's agent, which takes workloads and orders from all
// guests.
func startAgent(ctx context.Context, g Guest, all []Guest) error {
	args := []string{"sh", "-c", agentScript, "agent", "--log-level", "debug"}
	for _, other := range all {
		if other.Name != g.Name {
			args = append(args, "--allow", other.Name, "--allow-operator", other.Name)
		}
	}
	_, err := g.Output(ctx, args...)
	return err
}

// stopAgent ends a guest's agent, if it runs.
func stopAgent(ctx context.Context, g Guest) error {
	_, err := g.Output(ctx, "sh", "-c", `
p=$(cat `+agentPID+`) || exit 0
kill $p 2>/dev/null || exit 0
while kill -0 $p 2>/dev/null; do sleep 0.05; done`)
	return err
}
