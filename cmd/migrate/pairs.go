package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// pairsFlag is a flag of OLD=NEW that may be repeated, or have several with
// commas between.
type pairsFlag map[string]string

// Set adds what s says.
func (p *pairsFlag) Set(s string) error { return p.add(strings.Split(s, ",")) }

func (p *pairsFlag) add(words []string) error {
	for _, w := range words {
		from, to, ok := strings.Cut(w, "=")
		if !ok || from == "" || to == "" {
			return fmt.Errorf("%.60q: want OLD=NEW", w)
		}
		if was, twice := (*p)[from]; twice && was != to {
			return fmt.Errorf("%.40s is %.40s and %.40s", from, was, to)
		}
		if *p == nil {
			*p = pairsFlag{}
		}
		(*p)[from] = to
	}
	return nil
}

// String returns what Set reads.
func (p *pairsFlag) String() string {
	var words []string
	for _, from := range slices.Sorted(maps.Keys(*p)) {
		words = append(words, from+"="+(*p)[from])
	}
	return strings.Join(words, ",")
}

// Type names the flag's value in help texts.
func (*pairsFlag) Type() string { return "old=new" }
