package criu

import (
	"os"
	"testing"
)

func TestCanList(t *testing.T) {
	tool := realTool(t)
	before, _ := os.ReadFile("/proc/self/mountinfo")
	if err := tool.CanList(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile("/proc/self/mountinfo")
	if string(before) != string(after) {
		t.Errorf("mounts changed")
	}
}
