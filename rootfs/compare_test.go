package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"migrate"
)

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	file, fifo, link := dir+"/file", dir+"/fifo", dir+"/link"
	if err := os.WriteFile(file, []byte("12345"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	const reg = syscall.S_IFREG
	tests := []struct {
		name string
		want migrate.File
		code string
		says string
	}{
		{"same", migrate.File{Path: file, Size: 5, Mode: reg | 0o640}, "", ""},
		{"through a link", migrate.File{Path: link, Size: 5, Mode: reg | 0o640}, "", ""},
		{"missing", migrate.File{Path: dir + "/none", Mode: reg | 0o640}, CodeMissing, "none is not on the target"},
		{"below a file", migrate.File{Path: file + "/x", Mode: reg | 0o640}, CodeMissing, "is not on the target"},
		{"size", migrate.File{Path: file, Size: 6, Mode: reg | 0o640}, CodeDifferent, "6 bytes there, 5 here"},
		{"written", migrate.File{Path: file, Size: 6, Mode: reg | 0o640, Written: true}, "", ""},
		{"mode", migrate.File{Path: file, Size: 5, Mode: reg | 0o644}, CodeDifferent, "mode 0644 there, 0640 here"},
		{"setuid", migrate.File{Path: file, Size: 5, Mode: reg | 0o4640}, CodeDifferent, "mode 4640 there"},
		{"directory for file", migrate.File{Path: dir, Mode: reg | 0o755}, CodeDifferent, "a regular file there, a directory here"},
		{"directory", migrate.File{Path: dir, Mode: syscall.S_IFDIR | 0o755}, "", ""},
		{"named pipe", migrate.File{Path: fifo, Mode: syscall.S_IFIFO | 0o600}, "", ""},
		{"pipe for file", migrate.File{Path: fifo, Mode: reg | 0o600}, CodeDifferent, "a named pipe here"},
		{"mapped, without an ID", migrate.File{Path: file, Size: 5, Mode: reg | 0o640, Mapped: true}, "", ""},
		{"mapped, other build", migrate.File{Path: file, Size: 5, Mode: reg | 0o640, Mapped: true, BuildID: "ab"}, CodeDifferent, "build ab there, without an ID here"},
		{"open, other build", migrate.File{Path: file, Size: 5, Mode: reg | 0o640, BuildID: "ab"}, "", ""},
		{"relative", migrate.File{Path: "file"}, CodeDifferent, "not an absolute path"},
		{"empty", migrate.File{}, CodeDifferent, "not an absolute path"},
		{"nul", migrate.File{Path: "/a\x00b"}, CodeDifferent, "cannot be compared"},
	}
	for _, tt := range tests {
		got := Compare([]migrate.File{tt.want})
		switch {
		case tt.code == "" && len(got) != 0:
			t.Errorf("%s: Compare = %v, want none", tt.name, got)
		case tt.code != "" && (len(got) != 1 || got[0].Code != tt.code || !strings.Contains(got[0].What, tt.says) || got[0].Advice == ""):
			t.Errorf("%s: Compare = %v, want %s, %q", tt.name, got, tt.code, tt.says)
		}
	}
}

func TestDescribeSelf(t *testing.T) {
	path, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Describe(path)
	if err != nil || f.Size == 0 || f.Path != path || len(f.BuildID) < 16 {
		t.Errorf("Describe(%s) = %+v, %v, want a size and a build ID", path, f, err)
	}
	f.Mapped = true
	if got := Compare([]migrate.File{f}); len(got) != 0 {
		t.Errorf("Compare with itself = %v", got)
	}
}
