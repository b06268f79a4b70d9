package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/workload"
)

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"runc version 1.3.6+ds1\ncommit: x\nspec: 1.2.1\n": "1.3.6", "crun version 1.21\ncommit: y\n": "1.21", "runc version v1.2.7": "1.2.7", "what": "",
	} {
		if got := parseVersion(text); got != want {
			t.Errorf("parseVersion(%q) = %q, want %q", text, got, want)
		}
	}
	for _, tt := range []struct {
		name, version string
		joins         bool
	}{
		{"runc", "1.1.5", false}, {"runc", "1.2.6", false}, {"runc", "1.2.7", true}, {"runc", "1.3.0", true}, {"runc", "1.3.6", true},
		{"runc", "2.0", true}, {"runc", "", false}, {"crun", "1.8", true}, {"crun", "", true},
	} {
		if got := (Runtime{Name: tt.name, Version: tt.version}).ExecJoinsTime(); got != tt.joins {
			t.Errorf("%s %s: exec joins the time namespace: %v", tt.name, tt.version, got)
		}
	}
}

func TestLastMessage(t *testing.T) {
	for log, want := range map[string]string{
		"time=\"x\" level=error msg=\"first\"\ntime=\"x\" level=error msg=\"criu \\\"failed\\\"\"\n": `criu \"failed\"`,
		"2026-01-01: no container\n": "2026-01-01: no container", "": "",
	} {
		if got := LastMessage(log); got != want {
			t.Errorf("LastMessage(%q) = %q, want %q", log, got, want)
		}
	}
}

// fakeRuntime puts a program in the PATH that plays a runtime with the containers
// in the directory of its state, each with a file of what is said about it.
func fakeRuntime(t *testing.T, name string) {
	t.Helper()
	const script = `#!/bin/sh
root=/none; [ "$1" != --root ] || { root=$2; shift 2; }
case $1 in
--version) echo "%s version 1.2.5" ;;
state) cat $root/$2/state ;;
list) printf '['; sep=; for f in $root/*/state; do [ ! -e $f ] || { printf "$sep"; cat $f; sep=,; }; done; echo ']' ;;
delete) rm -r $root/$3 ;;
*) echo 'time="x" level=error msg="no such command"' >&2; exit 1 ;;
esac
`
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, script, name), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func makeContainer(t *testing.T, root, id, status string, pid int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, id), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"id":%q,"status":%q,"pid":%d,"bundle":"/b"}`, id, status, pid)
	if err := os.WriteFile(filepath.Join(root, id, "state"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRuntime(t *testing.T) {
	fakeRuntime(t, "runc")
	root := t.TempDir()
	r, err := Find(t.Context(), "runc", root)
	if err != nil || r.Version != "1.2.5" {
		t.Fatalf("Find = %+v, %v", r, err)
	}
	makeContainer(t, root, "web", "running", 77)
	makeContainer(t, root, "job", "stopped", 0)
	if s, err := r.State(t.Context(), "web"); err != nil || s.PID != 77 || !s.Running() {
		t.Errorf("State = %+v, %v", s, err)
	}
	for _, id := range []string{"none", "../web", ""} {
		if s, err := r.State(t.Context(), id); err == nil || id == "none" != errors.Is(err, ErrNone) {
			t.Errorf("State of %q = %+v, %v", id, s, err)
		}
	}
	if list, err := r.List(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("List = %+v, %v", list, err)
	}
	if _, err := r.run(t.Context(), "exec"); err == nil || !strings.HasSuffix(err.Error(), ": no such command") {
		t.Errorf("a command that fails: %v", err)
	}
	if err := r.Delete(t.Context(), "web", 78); err == nil {
		t.Error("Delete of a container with another process: no error")
	}
	for range 2 {
		if err := r.Delete(t.Context(), "web", 77); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.State(t.Context(), "web"); !errors.Is(err, ErrNone) {
		t.Errorf("after Delete: %v", err)
	}
}

func TestFindRefuses(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Find(t.Context(), "runc", ""); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("without runc: %v", err)
	}
	if _, err := Find(t.Context(), "sh", ""); err == nil || errors.Is(err, exec.ErrNotFound) {
		t.Errorf("what is none: %v", err)
	}
	if _, err := Find(t.Context(), "runc", "state"); err == nil || errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a relative directory: %v", err)
	}
}

// TestDeleteSpares demands that the files of a container's root outlive a runtime
// that was killed in a restore, and left them mounted among its state and in the
// bundle.
func TestDeleteSpares(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts belong to root")
	}
	fakeRuntime(t, "runc")
	c := container(t)
	precious := t.TempDir()
	if err := os.WriteFile(filepath.Join(precious, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	makeContainer(t, c.Root, c.ID, "stopped", 0)
	r, err := Find(t.Context(), "runc", c.Root)
	if err != nil {
		t.Fatal(err)
	}
	ofBundle := filepath.Join(c.Bundle, bindName)
	for _, at := range []string{filepath.Join(c.Root, c.ID, bindName), ofBundle} {
		if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount(precious, at, "", unix.MS_BIND, ""), unix.Mount(precious, at, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Delete(t.Context(), c.ID, 0); err != nil {
		t.Error(err)
	}
	if err := r.ClearLeft(c); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
		t.Errorf("a file of the container's root: %v", err)
	}
	if _, err := os.Stat(ofBundle); err == nil {
		t.Error("what was left in the bundle is still there")
	}
}

// TestDiscover has containers where a runtime keeps them for one that arrived.
func TestDiscover(t *testing.T) {
	fakeRuntime(t, "crun")
	state, root := t.TempDir(), t.TempDir()
	me, err := workload.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	rec := workload.Record{
		Name: "crun-web", Kind: workload.Crun, ID: "web", Root: me, State: workload.Running,
		Container: &migrate.Container{ContainerRef: migrate.ContainerRef{Runtime: "crun", Root: root, ID: "web"}},
	}
	if err := workload.Save(state, rec); err != nil {
		t.Fatal(err)
	}
	makeContainer(t, root, "web", "running", os.Getpid())
	makeContainer(t, root, "paused", "paused", os.Getppid())
	makeContainer(t, root, "done", "stopped", 0)
	list, err := running(t.Context(), "crun", roots([]workload.Record{rec, rec}, "crun")[1])
	if err != nil {
		t.Fatal(err)
	}
	workload.SortFound(list)
	if len(list) != 2 || list[0].Ref.String() != "crun:paused" || list[1].Ref.String() != "crun:web" || list[1].Root != me || list[1].Name != "crun-web" {
		t.Errorf("found %+v", list)
	}
	if f, err := Lookup(t.Context(), state, rec.Ref()); err != nil || f.Root != me {
		t.Errorf("Lookup = %+v, %v", f, err)
	}
	if f, err := Lookup(t.Context(), state, workload.Ref{Kind: workload.Crun, ID: "done"}); !errors.Is(err, ErrNone) {
		t.Errorf("Lookup of one that has ended = %+v, %v", f, err)
	}
	if list, err := running(context.Background(), "crun", filepath.Join(root, "none")); err != nil || len(list) != 0 {
		t.Errorf("where nothing is: %+v, %v", list, err)
	}
}

func TestTargetFindings(t *testing.T) {
	fakeRuntime(t, "runc")
	c := container(t)
	c.CgroupMount, c.Hooks = true, []string{"createRuntime", "poststart"}
	c.Namespaces = []migrate.ContainerNamespace{{Type: "network", Path: "/run/netns/none"}, {Type: "pid"}}
	makeContainer(t, c.Root, c.ID, "stopped", 0)
	src, here := migrate.Host{Name: "A", Cgroup: "v2"}, migrate.Host{Name: "B", Cgroup: "v1", TimeNamespaces: true}
	blockers, warnings := TargetFindings(t.Context(), c, src, here)
	if got, want := codes(blockers), []string{CodeTaken, CodeNoNamespace, CodeCgroupLayout}; !slices.Equal(got, want) {
		t.Errorf("blockers %q, want %q", got, want)
	}
	if got, want := codes(warnings), []string{CodeExecTime, CodeHooks}; !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
	t.Setenv("PATH", t.TempDir())
	if blockers, _ := TargetFindings(t.Context(), c, src, here); !slices.Equal(codes(blockers), []string{CodeRuntime}) {
		t.Errorf("without the runtime: %+v", blockers)
	}
}
