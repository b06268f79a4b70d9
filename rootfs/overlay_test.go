package rootfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate"
)

// overlay is a mounted overlay in a directory of its own.
type overlay struct{ lower, upper, merged string }

func mountOverlay(t *testing.T, dir, options string) overlay {
	t.Helper()
	o := overlay{filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "merged")}
	work := filepath.Join(dir, "work")
	for _, d := range []string{o.lower, o.upper, o.merged, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", o.lower, o.upper, work)
	if options != "" {
		data += "," + options
	}
	if err := unix.Mount("overlay", o.merged, "overlay", 0, data); err != nil {
		t.Fatalf("mounting an overlay with %s: %v", data, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(o.merged, 0); err != nil {
			t.Errorf("unmounting %s: %v", o.merged, err)
		}
	})
	return o
}

// shell runs a script in a directory.
func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// lowerScript makes what is in the lower layers of the tests.
const lowerScript = `
mkdir -p etc dir/sub gone/sub replaced opaque/old renamed/in
echo one >etc/one; echo two >etc/two; echo three >etc/three; ln etc/three etc/four
echo x >dir/x; echo y >dir/sub/y; echo z >gone/sub/z; echo r >replaced/r; echo o >opaque/old/o; echo n >renamed/in/n
ln -s one etc/link; dd if=/dev/zero bs=1000 count=300 2>/dev/null | tr '\0' L >big
find . -exec touch -h -d '2020-01-02 03:04:05.678901234' {} +
`

// upperScript changes a merged tree in every way that an upper layer records.
const upperScript = `
echo changed >etc/one; rm etc/two; chmod 600 etc/three; rm -r gone
rm -r replaced; echo file >replaced
rm -r opaque; mkdir opaque; echo new >opaque/new
mkdir -p new/dir; echo n >new/dir/n; ln new/dir/n new/other; ln -sf two etc/link
chown 5:6 dir; mv dir/x dir/moved; mknod new/fifo p
printf middle | dd of=big bs=1000 seek=150 conv=notrunc 2>/dev/null
`

func TestOverlayUpper(t *testing.T) {
	for _, tt := range []struct {
		name, options, script string
		kind                  Kind
		codes                 []string
		xattr                 string // that must be in the moved layer
	}{
		{name: "plain", kind: Upper, xattr: "trusted.overlay.opaque"},
		{name: "redirect", options: "redirect_dir=on", script: "mv renamed moved; echo more >moved/more; mv moved/in moved/out", kind: Upper, codes: []string{CodeRedirect}, xattr: "trusted.overlay.redirect"},
		{name: "metacopy", options: "redirect_dir=on,metacopy=on", script: "chmod 640 dir/sub/y; mv dir/sub/y dir/y", kind: Upper, codes: []string{CodeMetacopy, CodeRedirect}, xattr: "trusted.overlay.metacopy"},
		{name: "userxattr", options: "userxattr", kind: UserUpper, xattr: "user.overlay.opaque"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dirs := []string{t.TempDir(), t.TempDir()}
			for _, d := range dirs {
				if err := os.Mkdir(filepath.Join(d, "lower"), 0o755); err != nil {
					t.Fatal(err)
				}
				shell(t, filepath.Join(d, "lower"), lowerScript)
			}
			a := mountOverlay(t, dirs[0], tt.options)
			from, err := NewSender(a.upper, tt.kind)
			if err != nil {
				t.Fatal(err)
			}
			to := openStage(t, filepath.Join(dirs[1], "upper"), tt.kind)
			pass(t, from, to, PassOptions{})
			shell(t, a.merged, upperScript+tt.script)
			pass(t, from, to, PassOptions{})
			shell(t, a.merged, "rm etc/three; echo late >late; mkdir gone; rm -r new/dir")
			pass(t, from, to, PassOptions{Final: true})
			sameDigests(t, tt.kind, a.upper, to.Place().Tree())
			if err := to.Place().Commit(); err != nil {
				t.Fatal(err)
			}
			names := layerXattrs(t, filepath.Join(dirs[1], "upper"))
			if !slices.Contains(names, tt.xattr) || slices.ContainsFunc(names, isPrivate) {
				t.Errorf("the moved layer has %q, want %s and no file handles", names, tt.xattr)
			}
			b := mountOverlay(t, dirs[1], tt.options)
			sameTrees(t, a.merged, b.merged)
			c, err := Survey(t.Context(), a.upper, tt.kind)
			if err != nil || len(c.Blockers) > 0 || !slices.Equal(codes(c.Warnings), tt.codes) {
				t.Errorf("Survey = %+v, %v, want warnings %q", c, err, tt.codes)
			}
		})
	}
}

// sameDigests demands that trees have the same digest.
func sameDigests(t *testing.T, kind Kind, a, b string) {
	t.Helper()
	want, err1 := Digest(t.Context(), a, kind)
	have, err2 := Digest(t.Context(), b, kind)
	if err := errors.Join(err1, err2); err != nil || have != want {
		t.Errorf("the digest is %s, must be %s, %v", have, want, err)
	}
}

func isPrivate(name string) bool {
	_, own, _ := strings.Cut(name, "overlay.")
	return slices.Contains(private, own)
}

func codes(list []migrate.Finding) []string {
	var codes []string
	for _, f := range list {
		codes = append(codes, f.Code)
	}
	return codes
}

// layerXattrs returns the names of all attributes in a tree.
func layerXattrs(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		names, err := listXattrs(path)
		all = append(all, names...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestOverlayIndexBlocks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lower"), 0o755); err != nil {
		t.Fatal(err)
	}
	shell(t, filepath.Join(dir, "lower"), lowerScript)
	o := mountOverlay(t, dir, "index=on")
	shell(t, o.merged, "echo changed >etc/three; grep -q changed etc/four")
	c, err := Survey(t.Context(), o.upper, Upper)
	if err != nil || !slices.Equal(codes(c.Blockers), []string{CodeIndex}) {
		t.Errorf("Survey = %+v, %v, want %s", c, err, CodeIndex)
	}
}
