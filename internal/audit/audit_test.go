package audit

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestAdd(t *testing.T) {
	dir := t.TempDir()
	var work sync.WaitGroup
	for i := range 20 {
		work.Go(func() {
			if err := Open(dir).Add(Entry{Who: "hostB", What: "receive", Granted: i%2 == 0}); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	list, damaged, err := Open(dir).List()
	if err != nil || len(list) != 20 || damaged != 0 || list[0].Time.IsZero() || list[0].Who != "hostB" {
		t.Errorf("%d entries, %d damaged, %v", len(list), damaged, err)
	}
	fi, err := os.Stat(filepath.Join(dir, "audit.log"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, want a file for root alone", fi.Mode(), err)
	}
}

func TestFullAndDamaged(t *testing.T) {
	dir := t.TempDir()
	l := Open(dir)
	line := `{"who":"old","what":"move"}` + "\n"
	full := "half a li\n" + strings.Repeat(line, maxSize/len(line)+1)
	if err := os.WriteFile(l.path, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Add(Entry{Who: "new"}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(l.path); err != nil || fi.Size() > 200 {
		t.Errorf("a full file goes on: %v, %v", fi, err)
	}
	list, damaged, err := l.List()
	if err != nil || damaged != 1 || list[0].Who != "old" || list[len(list)-1].Who != "new" {
		t.Errorf("%d entries, %d damaged, %v", len(list), damaged, err)
	}
}
