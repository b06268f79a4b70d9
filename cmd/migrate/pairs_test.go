package main

import (
	"maps"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"migrate"
)

func TestMapBridge(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"--map-bridge br0=lan0":                                       {"br0": "lan0"},
		"--map-bridge br0=lan0 --map-bridge eth1=ens4":                {"br0": "lan0", "eth1": "ens4"},
		"--map-bridge br0=lan0,eth1=ens4":                             {"br0": "lan0", "eth1": "ens4"},
		"--map-bridge br0=lan0 --map-bridge br0=lan0":                 {"br0": "lan0"},
		"--map-bridge br0":                                            nil,
		"--map-bridge br0=":                                           nil,
		"--map-bridge br0=lan0 --map-bridge br0=lan1":                 nil,
		"--map-bridge br0=../lan0":                                    nil,
		"--map-bridge br0=a-name-of-sixteen-letters-and-more":         nil,
		"--map-bridge " + strings.Repeat("x", 16) + "=lan0 --tcp all": nil,
	} {
		var o migrate.Options
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		bindOptions(f, &o)
		err := f.Parse(strings.Fields(text))
		if err == nil {
			err = checkOptions(o)
		}
		if (err == nil) != (want != nil) || err == nil && !maps.Equal(o.MapBridge, want) {
			t.Errorf("%s: %v, %v; want %v", text, o.MapBridge, err, want)
		}
	}
}
