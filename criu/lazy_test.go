package criu

import (
	"reflect"
	"strings"
	"testing"
)

const smaps = `00400000-00500000 r-xp 00000000 fe:00 1234 /bin/program
Size:               1024 kB
VmFlags: rd ex mr mw me
00500000-00504000 rw-p 00000000 00:00 0 [heap]
VmFlags: rd wr mr mw me ac
00600000-00602000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me lo ac
00700000-00701000 rw-s 00000000 00:01 99 /dev/zero (deleted)
VmFlags: rd wr sh mr mw me ms
00800000-00802000 rw-p 00000000 00:00 0 [anon: Go: heap]
VmFlags: rd wr mr mw me ac
00880000-00882000 r-xp 00000000 00:00 0
VmFlags: rd ex mr mw me ac
00900000-00902000 r--p 00000000 00:00 0 [vvar]
VmFlags: rd mr pf io de dd
00a00000-00a01000 rw-p 00000000 00:00 0 [stack]
`

func TestLazySpans(t *testing.T) {
	want := []span{{0x500000, 0x504000}, {0x800000, 0x802000}}
	got, err := lazySpans(strings.NewReader(smaps))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("lazySpans = %x, %v, want %x", got, err, want)
	}
}

func TestLazyCut(t *testing.T) {
	l := LazyPages{spans: []span{{0x500000, 0x504000}, {0x504000, 0x506000}, {0xa00000, 0xa01000}}}
	for _, test := range []struct {
		address, pages, n uint64
		lazy              bool
	}{
		{0x400000, 1, 1, false},
		{0x4ff000, 9, 1, false},
		{0x500000, 1, 1, true},
		{0x500000, 9, 4, true},
		{0x503000, 9, 1, true},
		{0x504000, 9, 2, true},
		{0x506000, 1 << 50, 0x4fa, false},
		{0xa00000, 9, 1, true},
		{0xa01000, 7, 7, false},
	} {
		if n, lazy := l.Cut(test.address, test.pages); n != test.n || lazy != test.lazy {
			t.Errorf("Cut(%#x, %d) = %d, %v, want %d, %v", test.address, test.pages, n, lazy, test.n, test.lazy)
		}
	}
}
