package criu_test

import (
	"os"
	"testing"

	"migrate/criu"
)

func realTool(t *testing.T) criu.Tool {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("CRIU needs root")
	}
	tool, err := criu.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

func TestRealTool(t *testing.T) {
	tool := realTool(t)
	t.Log(tool)
	f, err := tool.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", f)
	img, err := tool.DumpCPU(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := tool.CheckCPU(t.Context(), img); err != nil {
		t.Errorf("CheckCPU of this machine's own image: %v", err)
	}
}
