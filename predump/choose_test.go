package predump

import (
	"errors"
	"strings"
	"testing"

	"migrate"
)

func TestChoose(t *testing.T) {
	const auto, soft, uffd, whole, none = migrate.TrackerAuto, migrate.TrackerSoftDirty, migrate.TrackerUffdWP, migrate.TrackerHash, migrate.TrackerNone
	lacks := errors.New("the reason")
	for _, c := range []struct {
		asked     migrate.Tracker
		softDirty bool
		uffd      error
		want      migrate.Tracker
		why       string // in the reason; "" wants none
	}{
		{auto, true, nil, soft, ""},
		{auto, true, lacks, soft, ""},
		{auto, false, nil, uffd, "CONFIG_MEM_SOFT_DIRTY"},
		{auto, false, lacks, whole, "the reason"},
		{"", false, nil, uffd, "CONFIG_MEM_SOFT_DIRTY"},
		{soft, true, nil, soft, ""},
		{soft, false, nil, uffd, "CONFIG_MEM_SOFT_DIRTY"},
		{soft, false, lacks, whole, "CONFIG_MEM_SOFT_DIRTY"},
		{uffd, true, nil, uffd, ""},
		{uffd, false, nil, uffd, ""},
		{uffd, true, lacks, soft, "the reason"},
		{uffd, false, lacks, whole, "the reason"},
		{whole, true, nil, whole, ""},
		{none, true, nil, none, ""},
		{none, false, lacks, none, ""},
	} {
		got, why := Choose(c.asked, c.softDirty, c.uffd)
		if got != c.want || (why != "") != (c.why != "") || !strings.Contains(why, c.why) {
			t.Errorf("Choose(%q, %v, %v) = %v, %q, want %v, %q", c.asked, c.softDirty, c.uffd, got, why, c.want, c.why)
		}
	}
}

func TestProbeDisabled(t *testing.T) {
	if err := Probe().UffdWP; err != nil {
		t.Fatalf("uffd-wp on this kernel: %v", err)
	}
	t.Setenv("MIGRATE_PROBE_DISABLE", "timens,uffd-wp")
	if Probe().UffdWP == nil || Disabled(migrate.TrackerSoftDirty) {
		t.Error("MIGRATE_PROBE_DISABLE=timens,uffd-wp does not switch off just uffd-wp")
	}
	if _, err := NewUffd(NewTable(), nil); err == nil {
		t.Error("NewUffd gives a tracker that is switched off")
	}
}
