package drain

import (
	"errors"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"
)

// Host is a target as a person names it.
type Host struct {
	Name    string            `json:"name"`
	Address string            `json:"address"` // HOST or HOST:PORT
	Labels  map[string]string `json:"labels,omitempty"`
	Limits  Limits            `json:"limits,omitzero"`
}

// Limits bound what may be on a host; zero is no limit.
type Limits struct {
	Memory    uint64  `json:"memory-bytes,omitempty"` // of the workloads on it
	CPUs      float64 `json:"cpus,omitempty"`         // that the workloads on it keep busy
	Workloads int     `json:"workloads,omitempty"`    // on it
	Incoming  int     `json:"incoming,omitempty"`     // at a time
}

// file is an inventory as it is written.
type file struct {
	Hosts []fileHost `yaml:"hosts"`
}

type fileHost struct {
	Name     string            `yaml:"name"`
	Address  string            `yaml:"address"`
	Labels   map[string]string `yaml:"labels"`
	Capacity struct {
		Memory    string  `yaml:"memory"`
		CPUs      float64 `yaml:"cpus"`
		Workloads int     `yaml:"workloads"`
	} `yaml:"capacity"`
	Limits struct {
		Incoming int `yaml:"incoming"`
	} `yaml:"limits"`
}

// ParseInventory reads the hosts of an inventory file in YAML. size reads a
// number of bytes such as "8GiB".
func ParseInventory(b []byte, size func(string) (uint64, error)) ([]Host, error) {
	var f file
	if err := yaml.UnmarshalWithOptions(b, &f, yaml.DisallowUnknownField()); err != nil {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	if len(f.Hosts) == 0 {
		return nil, errors.New("no hosts in it")
	}
	seen := map[string]bool{}
	var list []Host
	for i, h := range f.Hosts {
		if h.Name == "" {
			return nil, fmt.Errorf("host %d has no name", i+1)
		}
		if seen[h.Name] {
			return nil, fmt.Errorf("host %s is there twice", h.Name)
		}
		seen[h.Name] = true
		host, err := h.host(size)
		if err != nil {
			return nil, fmt.Errorf("host %s: %w", h.Name, err)
		}
		list = append(list, host)
	}
	return list, nil
}

func (h fileHost) host(size func(string) (uint64, error)) (Host, error) {
	out := Host{Name: h.Name, Address: h.Address, Labels: h.Labels}
	if out.Address == "" {
		out.Address = h.Name
	}
	out.Limits = Limits{CPUs: h.Capacity.CPUs, Workloads: h.Capacity.Workloads, Incoming: h.Limits.Incoming}
	if out.Limits.CPUs < 0 || out.Limits.Workloads < 0 || out.Limits.Incoming < 0 {
		return out, errors.New("capacities and limits must not be negative")
	}
	if h.Capacity.Memory == "" {
		return out, nil
	}
	n, err := size(h.Capacity.Memory)
	if err == nil && n == 0 {
		err = errors.New("must not be zero")
	}
	if err != nil {
		return out, fmt.Errorf("capacity: memory: %w", err)
	}
	out.Limits.Memory = n
	return out, nil
}

// Hosts makes targets of names or addresses that were given without more.
func Hosts(names []string) []Host {
	var list []Host
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		list = append(list, Host{Name: n, Address: n})
	}
	return list
}

// Chosen returns the hosts whose labels a selector chooses.
func Chosen(list []Host, s Selector) []Host {
	return slices.DeleteFunc(slices.Clone(list), func(h Host) bool { return !s.Match(h.Labels) })
}
