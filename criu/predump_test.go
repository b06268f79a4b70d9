package criu

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestKeepInventory(t *testing.T) {
	dir := t.TempDir()
	if err := KeepInventory(dir); err == nil {
		t.Error("KeepInventory without an inventory = nil, want an error")
	}
	b := appendMessage([]byte{0x16, 0x31, 0x31, 0x58}, []byte{0x08, 2, 0x40, 0xc0, 0x84, 0x3d})
	if err := os.WriteFile(filepath.Join(dir, InventoryName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "stats-dump"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../0", filepath.Join(dir, "parent")); err != nil {
		t.Fatal(err)
	}
	if err := KeepInventory(dir); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left over: %v, %v, want only the inventory", files, err)
	}
	if inv, err := ReadInventory(dir); err != nil || inv.DumpUptime != time.Second {
		t.Errorf("ReadInventory = %+v, %v", inv, err)
	}
}
