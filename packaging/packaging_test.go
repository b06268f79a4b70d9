package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// built makes the package once, and returns it and what is in it.
func built(t *testing.T) (deb, root string) {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("this machine has no dpkg-deb")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "migrate")
	run(t, "go", "build", "-o", binary, "../cmd/migrate")
	deb = strings.TrimSpace(run(t, "env", "VERSION=1.2.3~test", "./deb", binary, filepath.Join(dir, "out")))
	root = filepath.Join(dir, "root")
	run(t, "dpkg-deb", "-R", deb, root)
	return deb, root
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", args, err, out, stderr.String())
	}
	return string(out)
}

func TestDeb(t *testing.T) {
	deb, root := built(t)
	info := run(t, "dpkg-deb", "-f", deb)
	for _, want := range []string{"Package: migrate", "Version: 1.2.3~test", "Recommends: criu"} {
		if !strings.Contains(info, want) {
			t.Errorf("control has no %q:\n%s", want, info)
		}
	}
	for path, want := range map[string]string{
		"usr/bin/migrate": "", "usr/share/man/man1/migrate.1.gz": "", "usr/share/man/man1/migrate-drain.1.gz": "",
		"usr/share/man/man1/migrate-pki-init.1.gz":              "",
		"usr/share/bash-completion/completions/migrate":         "__migrate",
		"usr/share/zsh/vendor-completions/_migrate":             "#compdef migrate",
		"usr/share/fish/vendor_completions.d/migrate.fish":      "complete -c migrate",
		"lib/systemd/system/migrate-agent.service":              "KillMode=process",
		"lib/systemd/system/migrate-drain.service":              "ExecStop=/usr/bin/migrate drain",
		"lib/systemd/system/scope.d/migrate-drain.conf":         "Before=migrate-drain.service",
		"lib/systemd/system/user@.service.d/migrate-drain.conf": "Before=migrate-drain.service",
		"etc/migrate/agent.yaml":                                "allow:",
		"etc/default/migrate-drain":                             "DRAIN_TIMEOUT",
		"usr/share/doc/migrate/examples/migrate.json":           "migrate_downtime_seconds",
		"usr/share/doc/migrate/drain.md":                        "# Emptying a host",
		"usr/share/doc/migrate/changelog.gz":                    "",
		"usr/share/doc/migrate/copyright":                       "Apache-2.0",
		"DEBIAN/conffiles":                                      "/etc/migrate/agent.yaml",
		"DEBIAN/postinst":                                       "try-restart migrate-agent",
	} {
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil || len(b) == 0 || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v, %d bytes, want it to have %q", path, err, len(b), want)
		}
	}
	tidy(t, root)
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		run(t, "sh", "-n", filepath.Join(root, "DEBIAN", script))
	}
	run(t, "sh", "-c", "cd "+root+" && md5sum --quiet -c DEBIAN/md5sums")
	units(t, root)
	manPages(t, root)
	// The default configuration is one that the agent takes.
	out, err := exec.CommandContext(t.Context(), filepath.Join(root, "usr/bin/migrate"), "agent", "--config", filepath.Join(root, "etc/migrate/agent.yaml"), "--pki-dir", t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no certificate") && !strings.Contains(string(out), "needs root") {
		t.Errorf("the agent with its default configuration: %v\n%s", err, out)
	}
}

// tidy demands of all files what a package's have: nobody else may write to them.
func tidy(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil && fi.Mode().Perm()&0o022 != 0 || e.IsDir() && fi.Mode().Perm() != 0o755 {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// units has systemd look at the units as they are installed.
func units(t *testing.T, root string) {
	t.Helper()
	list, _ := filepath.Glob(filepath.Join(root, "lib/systemd/system/*.service"))
	if len(list) != 2 {
		t.Errorf("units %q", list)
	}
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("the units are not verified: this machine has no systemd-analyze")
		return
	}
	for _, unit := range list {
		b, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// The program is not installed here.
		here := strings.ReplaceAll(string(b), "/usr/bin/migrate", filepath.Join(root, "usr/bin/migrate"))
		if err := os.WriteFile(unit, []byte(here), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), tool, append([]string{"verify", "--man=no"}, list...)...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "migrate-") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// manPages demands that each command that users see has its page, with its
// flags.
func manPages(t *testing.T, root string) {
	t.Helper()
	help := run(t, filepath.Join(root, "usr/bin/migrate"), "--help")
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+)  +[A-Z]`).FindAllStringSubmatch(help, -1) {
		if m[1] == "help" {
			continue
		}
		page := filepath.Join(root, "usr/share/man/man1/migrate-"+m[1]+".1.gz")
		text := run(t, "gzip", "-dc", page)
		if !strings.Contains(text, ".SH DESCRIPTION") || !strings.Contains(text, "migrate-"+m[1]) {
			t.Errorf("%s: %.200s", page, text)
		}
	}
	if text := run(t, "gzip", "-dc", filepath.Join(root, "usr/share/man/man1/migrate-drain.1.gz")); !strings.Contains(text, "max-parallel") || !strings.Contains(text, "  3  refused") {
		t.Errorf("the page of drain lacks a flag, or the lines of its exit status:\n%s", text)
	}
}
