package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate"
)

// Codes of what stands in the way of moving a container on its source.
const (
	CodeRootFS  = "rootfs"         // of a kind that cannot be moved
	CodePaused  = "paused"         // by its runtime
	CodeSystemd = "systemd-cgroup" // its cgroup is a unit of systemd's
	CodeSharing = "shared-namespace"
)

// maxConfig bounds a bundle's config.json, which goes over the wire.
const maxConfig = 1 << 20

// Container is a container of this host.
type Container struct {
	migrate.Container
	Runtime Runtime
	PID     int    // of its first process
	Config  []byte // content of the bundle's config.json
}

// Inspect describes a container that runs, and what in it cannot be moved,
// beside what its processes do. If there is none, or it does not run, the error
// matches [ErrNone].
func Inspect(ctx context.Context, r Runtime, id string) (Container, []migrate.Finding, error) {
	c := Container{Runtime: r}
	s, err := r.State(ctx, id)
	if err != nil {
		return c, nil, err
	}
	if !s.Running() {
		return c, nil, fmt.Errorf("container %s is %s: %w", id, s.Status, ErrNone)
	}
	c.PID = s.PID
	spec, err := c.readConfig(s.Bundle)
	if err != nil {
		return c, nil, err
	}
	c.Container = describe(r, s, spec)
	sum := sha256.Sum256(c.Config)
	c.ConfigDigest = hex.EncodeToString(sum[:])
	findings := findings(s, c.Container)
	container, host, err := mountTables(s.PID)
	if err != nil {
		return c, nil, fmt.Errorf("mounts of container %s: %w", id, err)
	}
	if !filepath.IsAbs(s.RootFS) { // as crun says it
		s.RootFS = filepath.Join(s.Bundle, s.RootFS)
	}
	root, f := rootFS(s.RootFS, container, host)
	if f != nil {
		findings = append(findings, *f)
	}
	c.RootFS = root
	c.Mounts = mounts(container, host, spec.Linux.MaskedPaths)
	for i := range c.Mounts {
		note(&c.Mounts[i])
	}
	return c, findings, nil
}

func (c *Container) readConfig(bundle string) (specs.Spec, error) {
	var spec specs.Spec
	path := filepath.Join(bundle, "config.json")
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxConfig {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxConfig)
	}
	if err == nil {
		c.Config, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(c.Config, &spec)
	}
	if err == nil && (spec.Linux == nil || spec.Root == nil || spec.Process == nil) {
		err = fmt.Errorf("%s: not that of a Linux container", path)
	}
	if err != nil {
		return spec, fmt.Errorf("bundle of the container: %w", err)
	}
	return spec, nil
}

// describe takes from a container's configuration what a target must know.
func describe(r Runtime, s State, spec specs.Spec) migrate.Container {
	c := migrate.Container{
		ContainerRef:   migrate.ContainerRef{Runtime: r.Name, Root: r.Root, ID: s.ID},
		RuntimeVersion: r.Version, Bundle: s.Bundle,
		Terminal: spec.Process.Terminal, CgroupsPath: spec.Linux.CgroupsPath,
		UserNamespace: len(spec.Linux.UIDMappings) > 0, Hooks: hooks(spec.Hooks), Annotations: spec.Annotations,
	}
	for _, n := range spec.Linux.Namespaces {
		c.Namespaces = append(c.Namespaces, migrate.ContainerNamespace{Type: string(n.Type), Path: n.Path})
	}
	c.CgroupMount = slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Type, "cgroup") })
	return c
}

func hooks(h *specs.Hooks) []string {
	if h == nil {
		return nil
	}
	var kinds []string
	for _, k := range []struct {
		name string
		n    int
	}{
		{"prestart", len(h.Prestart)}, {"createRuntime", len(h.CreateRuntime)}, {"createContainer", len(h.CreateContainer)}, //nolint:staticcheck // in use still
		{"startContainer", len(h.StartContainer)}, {"poststart", len(h.Poststart)}, {"poststop", len(h.Poststop)},
	} {
		if k.n > 0 {
			kinds = append(kinds, k.name)
		}
	}
	return kinds
}

// findings follows from a container's state and configuration alone.
func findings(s State, c migrate.Container) []migrate.Finding {
	var list []migrate.Finding
	if s.Status == "paused" {
		list = append(list, migrate.Finding{Code: CodePaused, What: "the container is paused", Advice: "resume it, then move"})
	}
	if strings.Count(c.CgroupsPath, ":") == 2 && !strings.HasPrefix(c.CgroupsPath, "/") {
		list = append(list, migrate.Finding{
			Code: CodeSystemd, What: "the container's cgroup is a unit of systemd (" + c.CgroupsPath + ")",
			Advice: "create it with cgroups of the runtime's own (cgroupfs)",
		})
	}
	for _, n := range c.Namespaces {
		if n.Path != "" && (n.Type == "pid" || n.Type == "mount" || n.Type == "user") {
			list = append(list, migrate.Finding{
				Code: CodeSharing, What: fmt.Sprintf("the container shares its %s namespace (%s)", n.Type, n.Path),
				Advice: "give the container a namespace of its own",
			})
		}
	}
	for _, kind := range []string{"pid", "mount"} {
		if path, own := c.NamespacePath(kind); !own && path == "" {
			list = append(list, migrate.Finding{
				Code: CodeSharing, What: fmt.Sprintf("the container has no %s namespace of its own", kind),
				Advice: "give the container a namespace of its own",
			})
		}
	}
	return list
}
