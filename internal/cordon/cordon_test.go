package cordon

import (
	"errors"
	"os"
	"testing"
	"time"

	"migrate"
)

const one, two migrate.ID = "00000000000000a1", "00000000000000a2"

func TestApply(t *testing.T) {
	now := time.Now()
	claimed := func(id migrate.ID, until time.Duration) *migrate.Cordon {
		return &migrate.Cordon{Since: now.Add(-time.Hour), By: "op", Drain: id, Until: now.Add(until)}
	}
	for _, c := range []struct {
		name string
		have *migrate.Cordon
		wish Wish
		busy bool
		want *migrate.Cordon
	}{
		{"first", nil, Wish{By: "op", Drain: one, TTL: time.Minute}, false, &migrate.Cordon{Since: now, By: "op", Drain: one, Until: now.Add(time.Minute)}},
		{"without a drain", nil, Wish{By: "op", Reason: "disk"}, false, &migrate.Cordon{Since: now, By: "op", Reason: "disk"}},
		{"renewed", claimed(one, time.Second), Wish{By: "op", Drain: one, TTL: time.Minute}, false, claimed(one, time.Minute)},
		{"another drain lives", claimed(one, time.Second), Wish{By: "op", Drain: two, TTL: time.Minute}, true, claimed(one, time.Second)},
		{"another drain is dead", claimed(one, -time.Second), Wish{By: "op", Drain: two, TTL: time.Minute}, false, claimed(two, time.Minute)},
		{"given up", claimed(one, time.Second), Wish{By: "op", Drain: one}, false, claimed(one, 0)},
		{"off", claimed(one, -time.Second), Wish{Off: true}, false, nil},
		{"off, of nothing", nil, Wish{Off: true}, false, nil},
		{"off while a drain lives", claimed(one, time.Second), Wish{Off: true}, true, claimed(one, time.Second)},
	} {
		got, err := Apply(c.have, c.wish, now)
		var busy *Busy
		if errors.As(err, &busy) != c.busy || (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: Apply = %+v, %v, want %+v, busy %v", c.name, got, err, c.want, c.busy)
		}
	}
}

func TestSetIsThereAfterwards(t *testing.T) {
	dir := t.TempDir()
	if c, err := Load(dir); c != nil || err != nil {
		t.Fatalf("Load of nothing = %v, %v", c, err)
	}
	set, err := Set(dir, Wish{By: "op", Drain: one, TTL: time.Minute, Reason: "new kernel"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil || got.Drain != one || !got.Since.Equal(set.Since) || got.Reason != "new kernel" {
		t.Errorf("Load = %+v, %v, want %+v", got, err, set)
	}
	if _, err := Set(dir, Wish{Off: true}); err == nil {
		t.Error("Set(off) while a drain lives = nil")
	}
	if _, err := Set(dir, Wish{Off: true, Drain: one}); err != nil {
		t.Error(err)
	}
	if got, err := Load(dir); got != nil || err != nil {
		t.Errorf("Load afterwards = %v, %v", got, err)
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(file(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("Load of half a file = nil")
	}
	if _, err := Set(dir, Wish{By: "op"}); err == nil {
		t.Error("Set over half a file = nil")
	}
}
