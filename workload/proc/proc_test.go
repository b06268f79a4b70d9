package proc

import (
	"os"
	"os/exec"
	"reflect"
	"slices"
	"syscall"
	"testing"
)

func TestParseStat(t *testing.T) {
	const tail = " S 1 7 8 34817 7 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0"
	want := Process{PID: 12, State: 'S', Parent: 1, Group: 7, Session: 8, TTY: 34817, Start: 4711}
	for _, comm := range []string{"sh", "", "a b", "x) R 1 (", "new\nline"} {
		want.Comm = comm
		got, err := parseStat([]byte("12 (" + comm + ")" + tail))
		if err != nil || got != want {
			t.Errorf("parseStat(%q) = %+v, %v, want %+v", comm, got, err, want)
		}
	}
	for _, bad := range []string{"", "12", "12 (sh)", ")(", "12 (sh) S 1 2 3", "x (sh)" + tail} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestParseStatKernelThread(t *testing.T) {
	p, err := parseStat([]byte("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0"))
	if err != nil || !p.Kernel {
		t.Errorf("parseStat = %+v, %v, want a kernel thread", p, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (sh) S 1 7 8 34817 7 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseStat(b) })
}

func TestParseStatus(t *testing.T) {
	s, err := parseStatus("Name:\tsh\nTracerPid:\t9\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t000001fffeffffff\nNSpid:\t100\t3\nNSpgid:\t90\t0\nNSsid:\t80\t0\n")
	want := Status{PIDs: []int{100, 3}, Groups: []int{90, 0}, Sessions: []int{80, 0}, Tracer: 9, UIDs: []int{1, 2, 3, 4}, GIDs: []int{5, 6, 7, 8}, Caps: 0x1fffeffffff}
	if err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("parseStatus = %+v, %v, want %+v", s, err, want)
	}
	for _, bad := range []string{"", "NSpid:\tx\n", "NSpid:\t1\nNSpgid:\t1\n"} {
		if s, err := parseStatus(bad); err == nil {
			t.Errorf("parseStatus(%q) = %+v, want an error", bad, s)
		}
	}
}

func TestTree(t *testing.T) {
	all := []Process{{PID: 9, Parent: 5}, {PID: 1}, {PID: 5, Parent: 3}, {PID: 3, Parent: 1}, {PID: 4, Parent: 1}, {PID: 2, Parent: 3}}
	tests := map[int][]int{3: {3, 5, 2, 9}, 9: {9}, 4: {4}, 77: nil}
	for root, want := range tests {
		var got []int
		for _, p := range Tree(all, root) {
			got = append(got, p.PID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("Tree(%d) = %v, want %v", root, got, want)
		}
	}
}

func TestLive(t *testing.T) {
	self, err := Read(os.Getpid())
	if err != nil || self.PID != os.Getpid() || self.Parent != os.Getppid() || self.Start == 0 {
		t.Fatalf("Read(self) = %+v, %v", self, err)
	}
	s, err := ReadStatus(self.PID, self.PID)
	if err != nil || s.PIDs[0] != self.PID || s.Tracer != 0 {
		t.Errorf("ReadStatus(self) = %+v, %v", s, err)
	}
	tids, err := Threads(self.PID)
	if err != nil || !slices.Contains(tids, self.PID) {
		t.Errorf("Threads(self) = %v, %v", tids, err)
	}
	ns, err := ReadNamespaces(self.PID)
	if err != nil || ns["pid"] == 0 || ns["mnt"] == 0 {
		t.Errorf("ReadNamespaces(self) = %v, %v", ns, err)
	}
}

func TestGone(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	_, err1 := Read(pid)
	_, err2 := ReadStatus(pid, pid)
	_, err3 := ReadNamespaces(pid)
	_, err4 := Threads(pid)
	_, err5 := Descendants(pid)
	for i, err := range []error{err1, err2, err3, err4, err5, syscall.ESRCH} {
		if !Gone(err) {
			t.Errorf("%d: Gone(%v) = false, want true", i, err)
		}
	}
	if Gone(nil) || Gone(syscall.EPERM) {
		t.Error("Gone is true for nil or EPERM")
	}
}

func TestInode(t *testing.T) {
	for link, want := range map[string]uint64{"pipe:[42]": 42, "pid:[4026531836]": 4026531836, "/x:[y]": 0, "anon_inode:[eventfd]": 0, "": 0} {
		got, ok := Inode(link)
		if got != want || ok != (want != 0) {
			t.Errorf("Inode(%q) = %d, %v, want %d", link, got, ok, want)
		}
	}
}
