package criu

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

func realTool(t *testing.T) Tool {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("CRIU needs root")
	}
	tool, err := Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

func TestRealFeatures(t *testing.T) {
	tool := realTool(t)
	if tool.Version < MinVersion || !strings.HasPrefix(tool.Path, "/") {
		t.Errorf("Find = %+v", tool)
	}
	f, err := tool.Features(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Where the kernel has no soft-dirty, an answer that is the question again
	// would say that it has.
	if has := softDirty(t); f.MemTrack != has {
		t.Errorf("Features = %+v, but the kernel's soft-dirty is %v", f, has)
	}
}

// softDirty looks for the bit on a page that was just written.
func softDirty(t *testing.T) bool {
	t.Helper()
	b := make([]byte, 1<<20)
	b[4096] = 1
	if err := os.WriteFile("/proc/self/clear_refs", []byte("4"), 0); err != nil {
		return false
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(smaps)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "VmFlags:" && slices.Contains(f, "sd") {
			return true
		}
	}
	return false
}

func TestRealCPU(t *testing.T) {
	tool := realTool(t)
	img, err := tool.DumpCPU(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := tool.CheckCPU(t.Context(), img); err != nil {
		t.Errorf("CheckCPU of this machine's own image: %v", err)
	}
	better, name := betterCPU(t, img)
	e, ok := errors.AsType[*Error](tool.CheckCPU(t.Context(), better))
	if !ok || !strings.Contains(e.Cause, name) || e.Advice == "" {
		t.Errorf("CheckCPU of a CPU that has %s as well = %v, want a *Error that names it", name, e)
	}
	if err := tool.CheckCPU(t.Context(), []byte("nonsense")); err == nil {
		t.Error("CheckCPU of nonsense = nil, want an error")
	}
}

// betterCPU adds an instruction set that this machine lacks.
func betterCPU(t *testing.T, img []byte) (better []byte, name string) {
	t.Helper()
	e, err := parseCPUInfo(img)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.GetX86Entry()) == 0 {
		t.Skip("this machine has no x86 processor, of which alone CRIU names instruction sets")
	}
	words := e.GetX86Entry()[0].Capability
	for _, f := range instructionSets {
		if !hasBit(words, f.word, f.bit) {
			words[f.word] |= 1 << f.bit
			msg, err := proto.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			return appendMessage(appendMagic(nil, cpuinfoMagic), msg), f.name
		}
	}
	t.Fatal("this machine has every instruction set")
	return nil, ""
}
