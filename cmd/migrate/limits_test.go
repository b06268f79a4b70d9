package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLimitsDoc: docs/limits.md explains each code that preflight and plans use.
func TestLimitsDoc(t *testing.T) {
	doc, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`(?:Code: +|Code[A-Za-z]+ += )"([a-z-]+)"`)
	seen := 0
	for _, dir := range []string{"../../workload", "../../workload/oci", "../../source", "../../target", "../../clock", "../../rootfs", "../../drain"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range code.FindAllStringSubmatch(string(b), -1) {
				seen++
				if !strings.Contains(string(doc), "`"+m[1]+"`") && !notInTheWay[m[1]] {
					t.Errorf("docs/limits.md does not explain %s, of %s", m[1], f)
				}
			}
		}
	}
	if seen < 40 {
		t.Errorf("%d codes found, which is too few to be all", seen)
	}
}

// notInTheWay are codes of warnings about a move or a drain under way.
var notInTheWay = map[string]bool{
	"auto-converge": true, "cleanup": true, "journal": true, "redial": true, "tracker": true, "listing": true, "record": true, "reservation": true, "cordon": true,
}
