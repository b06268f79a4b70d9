package drain

import (
	"fmt"
	"strings"
)

// Selector chooses by labels. The zero value chooses everything.
type Selector []term

type term struct {
	key, value string
	exists     bool // any value will do
	not        bool
}

// ParseSelector reads terms of which all must hold, separated by commas: k=v
// (or k==v), k!=v, k (there is such a label) and !k (there is none). As in
// Kubernetes, k!=v holds for what has no label k.
func ParseSelector(s string) (Selector, error) {
	var out Selector
	if strings.TrimSpace(s) == "" {
		return out, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		t, err := parseTerm(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("selector %.80q: %w", s, err)
		}
		out = append(out, t)
	}
	return out, nil
}

func parseTerm(s string) (term, error) {
	var t term
	key, value, found := strings.Cut(s, "=")
	switch {
	case !found:
		t.exists = true
		t.key, t.not = strings.CutPrefix(s, "!")
	case strings.HasSuffix(key, "!"):
		t = term{key: strings.TrimSuffix(key, "!"), value: value, not: true}
	default:
		t = term{key: key, value: strings.TrimPrefix(value, "=")}
	}
	t.key, t.value = strings.TrimSpace(t.key), strings.TrimSpace(t.value)
	if t.key == "" || strings.ContainsAny(t.key, "!=() ") {
		return t, fmt.Errorf("%.40q: want k=v, k!=v, k or !k", s)
	}
	return t, nil
}

// Match reports whether labels are chosen.
func (s Selector) Match(labels map[string]string) bool {
	for _, t := range s {
		value, there := labels[t.key]
		if (there && (t.exists || value == t.value)) == t.not {
			return false
		}
	}
	return true
}

// String returns the form that [ParseSelector] reads.
func (s Selector) String() string {
	terms := make([]string, len(s))
	for i, t := range s {
		switch {
		case t.exists && t.not:
			terms[i] = "!" + t.key
		case t.exists:
			terms[i] = t.key
		case t.not:
			terms[i] = t.key + "!=" + t.value
		default:
			terms[i] = t.key + "=" + t.value
		}
	}
	return strings.Join(terms, ",")
}
