package vm

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

//go:embed vms.json
var definitionJSON []byte

// Definition says what the machines are made of: vms.json, which the
// Vagrantfile reads as well.
type Definition struct {
	Suite    string   `json:"suite"`        // release that the guests' programs are from
	Packages []string `json:"packages"`     // of them
	Kernels  []string `json:"kernels"`      // releases that kernels are from
	CPU      string   `json:"cpu"`          // model, under emulation
	Line     string   `json:"command-line"` // of the kernel; a panic must end the machine at once
	Memory   int      `json:"memory-mib"`
	Network  string   `json:"network"` // address and prefix of the bridge, where a client can be
	Hosts    []Host   `json:"hosts"`
}

// Host is one machine of the definition.
type Host struct {
	Name    string `json:"name"`
	Number  int    `json:"number"`  // tells apart links, hardware addresses and PIDs
	Address string `json:"address"` // with prefix
	Kernel  string `json:"kernel"`  // a release, one of Kernels
}

// IP returns the host's address without the prefix.
func (h Host) IP() string { return netip.MustParsePrefix(h.Address).Addr().String() }

// Defined returns vms.json.
func Defined() (Definition, error) { return parseDefinition(definitionJSON) }

func parseDefinition(b []byte) (d Definition, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return d, fmt.Errorf("reading vms.json: %w", err)
	}
	return d, d.validate()
}

func (d Definition) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("vms.json: "+format, args...))
		}
	}
	check(d.Suite != "" && len(d.Packages) > 0 && len(d.Kernels) > 0, "no suite, packages or kernels")
	check(d.Memory >= 128, "%d MiB of memory", d.Memory)
	_, err := netip.ParsePrefix(d.Network)
	check(err == nil, "network %q", d.Network)
	seen := map[int]bool{}
	for _, h := range d.Hosts {
		_, err := netip.ParsePrefix(h.Address)
		check(err == nil && h.Name != "", "host %q has the address %q", h.Name, h.Address)
		check(h.Number > 0 && h.Number < 200 && !seen[h.Number], "host %s has the number %d", h.Name, h.Number)
		check(slices.Contains(d.Kernels, h.Kernel), "host %s has the kernel of %q", h.Name, h.Kernel)
		seen[h.Number] = true
	}
	return errors.Join(errs...)
}

// pick returns the named hosts in that order.
func (d Definition) pick(names []string) (hosts []Host, err error) {
	for _, n := range names {
		i := slices.IndexFunc(d.Hosts, func(h Host) bool { return h.Name == n })
		if i < 0 {
			return nil, fmt.Errorf("vms.json has no host %q", n)
		}
		hosts = append(hosts, d.Hosts[i])
	}
	return hosts, nil
}
