package migrate

// ContainerRef names a container of a runtime on one host.
type ContainerRef struct {
	Runtime string `json:"runtime"`        // "runc" or "crun", also the name of its program
	Root    string `json:"root,omitempty"` // directory of the runtime's state; "" is its default
	ID      string `json:"id"`
}

// Container is what the source tells the target about an OCI container, beside
// the [Workload] that runs in it.
type Container struct {
	ContainerRef
	RuntimeVersion string               `json:"runtime-version"` // such as "1.3.6"
	Bundle         string               `json:"bundle"`          // path, the same on both hosts
	ConfigDigest   string               `json:"config-digest"`   // SHA-256 of the bundle's config.json, hexadecimal
	RootFS         RootFS               `json:"rootfs"`
	Mounts         []ContainerMount     `json:"mounts"`     // from the host, beside the root
	Namespaces     []ContainerNamespace `json:"namespaces"` // as configured
	Terminal       bool                 `json:"terminal"`
	UserNamespace  bool                 `json:"user-namespace"`
	CgroupsPath    string               `json:"cgroups-path,omitempty"` // as configured
	CgroupMount    bool                 `json:"cgroup-mount"`           // it sees cgroups
	Hooks          []string             `json:"hooks,omitempty"`        // kinds of hooks that are configured
	Annotations    map[string]string    `json:"annotations,omitempty"`
}

// RootFS is the root file system of a container.
type RootFS struct {
	Kind  string   `json:"kind"` // RootPlain or RootOverlay
	Path  string   `json:"path"` // where it is on the host
	Lower []string `json:"lower,omitempty"`
	Upper string   `json:"upper,omitempty"`
	Work  string   `json:"work,omitempty"`
	// Options are all of an overlay mount, in the order of mount(8), without its
	// directories.
	Options []string `json:"options,omitempty"`
}

// The kinds of root file systems that can be moved.
const (
	RootPlain   = "plain"   // a directory
	RootOverlay = "overlay" // an overlay mount
)

// ContainerMount is something of the host that a container has mounted.
type ContainerMount struct {
	Path     string        `json:"path"`             // in the container
	Source   string        `json:"source,omitempty"` // on the host; "" if that is not known
	Key      string        `json:"key"`              // by which dump and restore know it
	Type     string        `json:"type"`             // of its file system
	ReadOnly bool          `json:"read-only,omitempty"`
	Mode     uint32        `json:"mode"`            // st_mode of the source
	Rdev     uint64        `json:"rdev,omitempty"`  // of a device
	Given    bool          `json:"given,omitempty"` // a device, a cgroup, or what a runtime hides a path with: every host has it
	Decision MountDecision `json:"decision"`
}

// MountDecision says what is done about a mount's source.
type MountDecision string

// The decisions.
const (
	MountSame MountDecision = "same" // it is on the target, and must be of the same kind
	MountShip MountDecision = "ship" // it is sent with the container
)

// ContainerNamespace is one line of a container's configuration.
type ContainerNamespace struct {
	Type string `json:"type"`           // in the words of the runtime specification: "network", "pid", "mount" …
	Path string `json:"path,omitempty"` // of one that is not the container's own
}

// NamespacePath returns the path of the namespace of the given type; own
// reports whether the container has one of its own.
func (c Container) NamespacePath(kind string) (path string, own bool) {
	for _, n := range c.Namespaces {
		if n.Type == kind {
			return n.Path, n.Path == ""
		}
	}
	return "", false
}
