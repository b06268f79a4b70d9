package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"migrate"
	"migrate/workload"
)

// Codes of what a target has to say about a container.
const (
	CodeRuntime      = "runtime"         // not there, or older
	CodeTaken        = "container-taken" // another one has its name
	CodeBundle       = "bundle"          // another one is in its place
	CodeMount        = "mount"           // the source of a mount is not here, or another
	CodeNoNamespace  = "namespace-path"  // it is to be joined and is not here
	CodeCgroupLayout = "cgroup-layout"   // it sees cgroups of the other version
	CodeExecTime     = "exec-time"       // the runtime's exec would be in the host's time namespace
	CodeHooks        = "hooks"           // not all are run by a restore
)

// Valid checks a description that came from a peer: every path in it absolute
// and clean, every name one.
func Valid(c migrate.Container) error {
	if err := workload.ValidContainer(c.ID); err != nil {
		return err
	}
	if !slices.Contains(Names, c.Runtime) {
		return fmt.Errorf("container runtime %.40q: not one of %q", c.Runtime, Names)
	}
	paths := []string{c.Bundle, c.RootFS.Path}
	for _, p := range append(slices.Clone(c.RootFS.Lower), c.Root, c.RootFS.Upper, c.RootFS.Work) {
		if p != "" {
			paths = append(paths, p)
		}
	}
	for _, m := range c.Mounts {
		paths = append(paths, m.Path)
	}
	for _, p := range paths {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p {
			return fmt.Errorf("%.80q: not an absolute path", p)
		}
	}
	return validOptions(c.RootFS.Options)
}

// validOptions refuses options of an overlay that would name directories beside those
// that are checked.
func validOptions(options []string) error {
	for _, o := range options {
		key, _, _ := strings.Cut(o, "=")
		if strings.Contains(o, ",") || slices.Contains([]string{"lowerdir", "lowerdir+", "upperdir", "workdir"}, key) {
			return fmt.Errorf("%.80q: no option for an overlay here", o)
		}
	}
	return nil
}

// TargetFindings says what on this host stands in the way of a container.
func TargetFindings(ctx context.Context, c migrate.Container, src, here migrate.Host) (blockers, warnings []migrate.Finding) {
	r, err := Find(ctx, c.Runtime, c.Root)
	if err != nil {
		what := err.Error()
		if errors.Is(err, exec.ErrNotFound) {
			what = c.Runtime + " is not in the PATH of the agent"
		}
		return []migrate.Finding{{Code: CodeRuntime, What: here.Name + ": " + what, Advice: "install " + c.Runtime + " there, as on " + src.Name}}, nil
	}
	blockers = append(blockers, r.taken(ctx, c)...)
	blockers = append(blockers, bundleFindings(c)...)
	for _, m := range c.Mounts {
		if f := mountFinding(m); f != nil {
			blockers = append(blockers, *f)
		}
	}
	for _, n := range c.Namespaces {
		if _, err := os.Stat(n.Path); n.Path != "" && err != nil {
			blockers = append(blockers, migrate.Finding{
				Code: CodeNoNamespace, What: fmt.Sprintf("the container joins the %s namespace %s, which is not there", n.Type, n.Path),
				Advice: "make it on the target, such as by \"ip netns add\"",
			})
		}
	}
	if c.CgroupMount && src.Cgroup != here.Cgroup {
		blockers = append(blockers, migrate.Finding{
			Code: CodeCgroupLayout, What: fmt.Sprintf("the container sees cgroups, which are %s on %s and %s on %s", src.Cgroup, src.Name, here.Cgroup, here.Name),
			Advice: "move to a host with the same version of cgroups, or run the container without a mount of them",
		})
	}
	return blockers, append(warnings, r.warnings(c, here)...)
}

// taken finds a container of that name. One that has ended is as much in the way
// for the runtime.
func (r Runtime) taken(ctx context.Context, c migrate.Container) []migrate.Finding {
	s, err := r.State(ctx, c.ID)
	if errors.Is(err, ErrNone) {
		return nil
	}
	f := migrate.Finding{Code: CodeTaken, What: fmt.Sprintf("%s has a container %s already", r.Name, c.ID)}
	switch {
	case err != nil:
		f.What = err.Error()
		f.Advice = fmt.Sprintf("see what \"%s state %s\" says", r.Name, c.ID)
	case s.Running():
		f.Advice = "stop it, or move it away first"
	default:
		f.What += " (" + s.Status + ")"
		f.Advice = fmt.Sprintf("remove it: %s delete %s", r.Name, c.ID)
	}
	return []migrate.Finding{f}
}

// bundleFindings compares what is at the place of the bundle with what has to be
// there.
func bundleFindings(c migrate.Container) []migrate.Finding {
	var list []migrate.Finding
	b, err := os.ReadFile(filepath.Join(c.Bundle, "config.json"))
	sum := sha256.Sum256(b)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		list = append(list, migrate.Finding{Code: CodeBundle, What: err.Error(), Advice: "remove what is in the place of the bundle"})
	case hex.EncodeToString(sum[:]) != c.ConfigDigest:
		list = append(list, migrate.Finding{
			Code: CodeBundle, What: fmt.Sprintf("another bundle is in %s, with a config.json that differs", c.Bundle),
			Advice: "remove it, or move it aside",
		})
	}
	return list
}

// mountFinding compares the source of a mount with what is here in its place.
func mountFinding(m migrate.ContainerMount) *migrate.Finding {
	if m.Given || m.Decision != migrate.MountSame {
		return nil
	}
	advice := "make it there as on the source"
	var st unix.Stat_t
	if m.Source == "" {
		return &migrate.Finding{Code: CodeMount, What: fmt.Sprintf("the source cannot tell what is mounted at %s in the container", m.Path), Advice: "unmount it"}
	}
	if err := unix.Stat(m.Source, &st); err != nil {
		return &migrate.Finding{Code: CodeMount, What: fmt.Sprintf("%s, mounted at %s in the container: %v", m.Source, m.Path, err), Advice: advice}
	}
	if st.Mode&unix.S_IFMT != m.Mode&unix.S_IFMT || m.Rdev != 0 && st.Rdev != m.Rdev {
		return &migrate.Finding{Code: CodeMount, What: fmt.Sprintf("%s, mounted at %s in the container, is of another kind here", m.Source, m.Path), Advice: advice}
	}
	return nil
}

// warnings are about what works, but not as one might think.
func (r Runtime) warnings(c migrate.Container, here migrate.Host) []migrate.Finding {
	var list []migrate.Finding
	if here.TimeNamespaces && !r.ExecJoinsTime() {
		list = append(list, migrate.Finding{
			Code:   CodeExecTime,
			What:   fmt.Sprintf("\"%s exec\" of %s %s starts processes in the host's time namespace, not the container's: their clocks differ, and the container cannot be moved while they run", r.Name, r.Name, r.Version),
			Advice: fmt.Sprintf("use \"migrate exec\" there, or upgrade to runc 1.2.7 or later on %s", here.Name),
		})
	}
	var left []string
	for _, h := range c.Hooks {
		if h == "createContainer" || h == "startContainer" || h == "poststart" {
			left = append(left, h)
		}
	}
	if len(left) > 0 {
		list = append(list, migrate.Finding{
			Code:   CodeHooks,
			What:   fmt.Sprintf("the container has hooks that a restore does not run: %q", left),
			Advice: "what they did inside the container moves with it; what they did to the host has to be done there by hand",
		})
	}
	return list
}
