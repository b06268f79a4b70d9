package predump

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

func TestParseMaps(t *testing.T) {
	const p, s = "00400000-00402000 rw-p 00000000 00:00 0 ", "00400000-00402000 rw-s 00000000 00:00 0 "
	both := []extent{{0x400000, 0x402000}}
	for _, c := range []struct {
		name, text string
		want       []extent
	}{
		{"anonymous", p, both},
		{"heap", p + "                    [heap]", both},
		{"file", "00400000-00402000 r-xp 00001000 fe:00 131  /usr/bin/a b", both},
		{"no permission", "00400000-00402000 ---p 00000000 00:00 0", both},
		{"tmpfs file", p + "/dev/shm/x", both},
		{"/dev/zero", p + "/dev/zero", both},
		{"memfd", p + "/memfd:x (deleted)", both},
		{"shared", s, nil},
		{"aio ring", s + "/[aio] (deleted)", nil},
		{"device", p + "/dev/mem", nil},
		{"ring", p + "anon_inode:[io_uring]", nil},
		{"vdso", p + "[vdso]", nil},
		{"vvar", p + "[vvar]", nil},
		{"vvar of a time namespace", p + "[vvar_vclock]", nil},
		{"vsyscall", "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]", nil},
		{"huge pages", p + "/anon_hugepage (deleted)", nil},
		{"nothing", "", nil},
		{"smaps, used", p + "\nSize:  8 kB\nAnonymous:  4 kB\nSwap:  0 kB\nVmFlags: rd wr\n", both},
		{"smaps, swapped", p + "\nAnonymous:  0 kB\nSwap:  4 kB\n", both},
		{"smaps, empty", p + "\nAnonymous:  0 kB\nSwap:  0 kB\n", nil},
		{"smaps, empty and used", "10000-20000 rw-p 0 00:00 0\nAnonymous: 0 kB\nSwap: 0 kB\n" + p + "\nAnonymous: 4 kB\nSwap: 0 kB", both},
		{"smaps, shared after empty", p + "\nAnonymous: 4 kB\nSwap: 0 kB\n" + "00500000-00502000 rw-s 0 00:00 0\nAnonymous: 0 kB\nSwap: 0 kB\n", both},
	} {
		got, err := parseMaps([]byte(c.text))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: parseMaps = %x, %v, want %x", c.name, got, err, c.want)
		}
	}
	for _, bad := range []string{"x", "1-2 rw", "2-1 rw-p 0 00:00 0", "zz-2 rw-p 0 00:00 0"} {
		if got, err := parseMaps([]byte(bad)); err == nil {
			t.Errorf("parseMaps(%q) = %x, want error", bad, got)
		}
	}
}

// TestParseMapsAgree: smaps names no mapping that maps does not.
func TestParseMapsAgree(t *testing.T) {
	parse := func(file string) []extent {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		list, err := parseMaps(b)
		if err != nil || len(list) == 0 {
			t.Fatalf("parseMaps of %s = %v, %v", file, list, err)
		}
		return list
	}
	l := startLoad(t, "kinds")
	dir := fmt.Sprintf("/proc/%d", l.cmd.Process.Pid)
	all, used := parse(dir+"/maps"), parse(dir+"/smaps")
	for _, e := range used {
		if !slices.Contains(all, e) {
			t.Errorf("smaps has %x, maps does not", e)
		}
	}
	if len(used) >= len(all) {
		t.Errorf("smaps leaves out nothing: %d of %d", len(used), len(all))
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte("00400000-00402000 rw-p 00000000 00:00 0 [heap]\nAnonymous: 4 kB\nSwap: 0 kB\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseMaps(b)
		for _, e := range list {
			if err != nil || e.start > e.end {
				t.Errorf("parseMaps(%q) = %x, %v", b, list, err)
			}
		}
	})
}

func TestBatch(t *testing.T) {
	b := batch{data: make([]byte, 8*PageSize)}
	var flushed []extent
	flush := func() error {
		flushed = append(flushed, b.drop(b.pages())...)
		b.reset()
		return nil
	}
	for _, e := range []extent{{0, PageSize}, {PageSize, 2 * PageSize}, {10 * PageSize, 30 * PageSize}} {
		if err := b.add(e, flush); err != nil {
			t.Fatal(err)
		}
	}
	_ = flush()
	want := []extent{
		{0, 2 * PageSize}, {10 * PageSize, 16 * PageSize}, {16 * PageSize, 24 * PageSize}, {24 * PageSize, 30 * PageSize},
	}
	if !slices.Equal(flushed, want) {
		t.Errorf("flushed %x, want %x", flushed, want)
	}
	b.append(extent{0, 4 * PageSize})
	b.append(extent{8 * PageSize, 10 * PageSize})
	if got, want := b.drop(5), []extent{{0, 4 * PageSize}, {8 * PageSize, 9 * PageSize}}; !slices.Equal(got, want) {
		t.Errorf("drop(5) = %x, want %x", got, want)
	}
	if b.pages() != 1 || len(b.extents) != 1 {
		t.Errorf("left: %d pages, %x", b.pages(), b.extents)
	}
}
