package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// twoTrees makes a directory with an old tree at "place", if asked, and a source at "src".
func twoTrees(t *testing.T, old bool) (dir string) {
	t.Helper()
	dir = t.TempDir()
	shell(t, dir, "mkdir src at; echo new >src/f; ln src/f src/g; mkdir src/d; touch -d 2021-01-01 src/d")
	if old {
		shell(t, dir, "mkdir -p at/place/d; echo old >at/place/f; echo only >at/place/d/only; touch -d 2019-01-01 at/place/d at/place at")
	}
	return dir
}

// stagedIn sends src to at/place and leaves it staged.
func stagedIn(t *testing.T, dir string) Place {
	t.Helper()
	from, err := NewSender(dir+"/src", Plain)
	if err != nil {
		t.Fatal(err)
	}
	to := openStage(t, dir+"/at/place", Plain)
	pass(t, from, to, PassOptions{Final: true})
	if err := to.Sync(); err != nil {
		t.Fatal(err)
	}
	return to.Place()
}

// names is a snapshot without times of the directory itself, which gains and loses names.
func names(t *testing.T, dir string) map[string]string {
	s := snapshot(t, dir)
	delete(s, "")
	return s
}

func sameNames(t *testing.T, want, have map[string]string) {
	t.Helper()
	if len(want) != len(have) {
		t.Errorf("%d names, want %d", len(have), len(want))
	}
	for path, d := range want {
		if have[path] != d {
			t.Errorf("%s is %s, must be %s", path, have[path], d)
		}
	}
}

// TestPlace walks through every order of calls, each made twice as after a crash.
func TestPlace(t *testing.T) {
	twice := func(f func() error) error { return errors.Join(f(), f()) }
	for _, old := range []bool{false, true} {
		dir := twoTrees(t, old)
		before := names(t, dir+"/at")

		p := stagedIn(t, dir)
		if err := p.Finish(); !errors.Is(err, ErrNotStaged) {
			t.Errorf("Finish of a staged tree: %v", err)
		}
		if err := twice(p.Discard); err != nil {
			t.Error(err)
		}
		sameNames(t, before, names(t, dir+"/at"))
		if err := p.Commit(); !errors.Is(err, ErrNotStaged) {
			t.Errorf("Commit of nothing: %v", err)
		}

		p = stagedIn(t, dir)
		if err := twice(p.Commit); err != nil {
			t.Error(err)
		}
		sameTrees(t, dir+"/src", dir+"/at/place")
		if err := twice(p.Discard); err != nil {
			t.Error(err)
		}
		sameNames(t, before, names(t, dir+"/at"))

		p = stagedIn(t, dir)
		if err := errors.Join(p.Commit(), twice(p.Finish), p.Discard()); err != nil {
			t.Error(err)
		}
		sameTrees(t, dir+"/src", dir+"/at/place")
		if entries, err := os.ReadDir(dir + "/at"); err != nil || len(entries) != 1 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
	}
}

// TestPlaceAfterCrash stops removals in the middle.
func TestPlaceAfterCrash(t *testing.T) {
	remove := func(t *testing.T, paths ...string) {
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := twoTrees(t, true)
	before := names(t, dir+"/at")
	for n := 1; n <= 4; n++ { // a Discard that got so far
		p := stagedIn(t, dir)
		remove(t, []string{p.Tree() + "/f", p.Tree(), p.aside(), p.record()}[:n]...)
		if err := p.Discard(); err != nil {
			t.Error(err)
		}
		sameNames(t, before, names(t, dir+"/at"))
	}
	p := stagedIn(t, dir)
	if err := errors.Join(p.Commit(), p.write(record{Finished: true})); err != nil {
		t.Fatal(err)
	}
	remove(t, p.Tree()+"/f")
	if err := p.Discard(); !errors.Is(err, ErrFinished) {
		t.Errorf("Discard during Finish: %v", err)
	}
	if err := p.Finish(); err != nil {
		t.Error(err)
	}
	sameTrees(t, dir+"/src", dir+"/at/place")
}

func TestPlaceRefuses(t *testing.T) {
	dir := twoTrees(t, true)
	options := StageOptions{Kind: Plain, Limits: Limits{Bytes: 1, Entries: 1}}
	shell(t, dir, "echo f >at/file; mkdir at/mount; ln -s place at/link")
	if err := unix.Mount("tmpfs", dir+"/at/mount", "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir+"/at/mount", 0)
	for _, path := range []string{"relative", "/", dir + "/at/file", dir + "/at/link", dir + "/at/mount", dir + "/none/place"} {
		p := Place{Path: path, ID: testID}
		if s, err := p.Open(options); err == nil {
			t.Errorf("Open(%s) works", path)
			s.Close()
			p.Discard()
		}
	}
	if _, err := (Place{Path: dir + "/at/place", ID: "../../x"}).Open(options); err == nil {
		t.Error("an ID that is none works")
	}
	if _, err := (Place{Path: dir + "/at/place", ID: testID}).Open(StageOptions{Kind: Plain}); err == nil {
		t.Error("no limits work")
	}
	p := stagedIn(t, dir)
	if _, err := p.Open(options); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second Open: %v", err)
	}
	shell(t, dir, "mv at/place at/away; mkdir at/place; mv "+p.Tree()+" "+filepath.Join(dir, "at/taken")+"; mkdir "+p.Tree())
	if err := errors.Join(p.Commit(), p.Discard()); err == nil {
		t.Error("a tree that is not the staged one is taken for it")
	}
}
