package testhost

import (
	"reflect"
	"testing"
)

func TestParseMountinfo(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []hierarchy
	}{
		"v2": {
			"35 25 0:29 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			[]hierarchy{{"/sys/fs/cgroup", ""}},
		},
		"hybrid": {
			"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
				"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd,release_agent=/x\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			[]hierarchy{{"/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"}, {"/sys/fs/cgroup/systemd", "name=systemd"}, {"/sys/fs/cgroup/unified", ""}},
		},
		"mounted twice, or in part": {
			"32 31 0:29 /docker/1 /mnt/freezer rw - cgroup cgroup rw,freezer\n" +
				"33 31 0:29 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n" +
				"34 31 0:29 / /again rw - cgroup cgroup rw,freezer\n",
			[]hierarchy{{"/sys/fs/cgroup/freezer", "freezer"}},
		},
		"none":    {"22 27 0:21 / /proc rw - proc proc rw\n", nil},
		"garbage": {"cgroup - cgroup\n\n", nil},
	} {
		if got := parseMountinfo(tt.text); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: parseMountinfo = %v, want %v", name, got, tt.want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		o  Options
		ok bool
	}{
		{Options{}, true},
		{Options{Set: "t12-3", Names: []string{"web-1", "db"}}, true},
		{Options{Set: "../x"}, false},
		{Options{Set: "a.b"}, false},
		{Options{Names: []string{}}, false},
		{Options{Names: []string{"A", "a"}}, false},
		{Options{Names: []string{"switch"}}, false},
		{Options{Names: []string{"A B"}}, false},
	} {
		if err := tt.o.withDefaults().validate(); (err == nil) != tt.ok {
			t.Errorf("validate(%+v) = %v, want ok %t", tt.o, err, tt.ok)
		}
	}
}
