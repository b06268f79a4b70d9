package drain

import "testing"

func TestSelector(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": "front", "empty": ""}
	for s, want := range map[string]bool{
		"": true, "app=web": true, "app==web": true, "app=db": false, "app!=db": true, "app!=web": false,
		"app": true, "!app": false, "zone": false, "!zone": true, "zone!=a": true, "zone=a": false,
		"app=web,tier=front": true, "app=web, tier=back": false, "empty": true, "empty=": true,
	} {
		sel, err := ParseSelector(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if got := sel.Match(labels); got != want {
			t.Errorf("%q matches: %v, want %v", s, got, want)
		}
		again, err := ParseSelector(sel.String())
		if err != nil || again.String() != sel.String() {
			t.Errorf("%q comes back as %q, %v", s, again, err)
		}
	}
	for _, s := range []string{",", "=a", "app=web,", "!", "a b=c", "zone in (a)"} {
		if sel, err := ParseSelector(s); err == nil {
			t.Errorf("%q = %v, want an error", s, sel)
		}
	}
}
