package criu_test

import (
	"os"
	"testing"

	"migrate/criu/criutest"
)

func TestMain(m *testing.M) {
	criutest.Main()
	os.Exit(m.Run())
}

// TestPreDump runs where the kernel tracks memory. The test's binary needs
// nothing beside it, so that it can be taken to such a machine.
func TestPreDump(t *testing.T) { criutest.RunPreDump(t) }
