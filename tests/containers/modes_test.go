package containers

import (
	"testing"

	"migrate"
)

// TestCgroupModes moves a container in each of CRIU's ways to treat cgroups.
// Whichever it is, the tasks end up in the groups that the runtime has made, with
// its limits, or the move is rolled back.
func TestCgroupModes(t *testing.T) {
	t.Parallel()
	from, to := pair(t, nil)
	c := load(t, from, "runc", "modes", nil, "--memory", "4", "--children", "1")
	before := limits(t, from, c)
	for _, mode := range append([]migrate.CgroupMode{""}, migrate.CgroupModes...) {
		var flags []string
		if mode != "" {
			flags = []string{"--manage-cgroups-mode", string(mode)}
		}
		if mode == "strict" { // does not allow groups that are there already, as the runtime's
			r, stderr, err := c.tryMove(from, to, flags...)
			if err == nil || r.Owner != migrate.OwnerSource || r.Status != migrate.StatusFailed {
				t.Fatalf("mode %q: %v, %s, owner %s\n%s", mode, err, r.Status, r.Owner, stderr)
			}
			c.verify(t, from)
			c.gone(t, to)
			continue
		}
		t.Logf("mode %q", mode)
		c.move(t, from, to, flags...)
		c.verify(t, to)
		if after := limits(t, to, c); after != before {
			t.Errorf("mode %q: %s\nbefore: %s", mode, after, before)
		}
		from, to = to, from
	}
	c.remove(from)
}
