package criutest_test

import (
	"os"
	"testing"

	"migrate/criu/criutest"
)

func TestMain(m *testing.M) {
	criutest.Main()
	os.Exit(m.Run())
}

func TestFake(t *testing.T) { criutest.Run(t, criutest.NewFake) }

func TestReal(t *testing.T) { criutest.Run(t, criutest.NewReal) }

// TestRealV1 is for hosts that still have the v1 freezer, hybrid ones included.
func TestRealV1(t *testing.T) {
	if criutest.HasV1() {
		criutest.Run(t, criutest.NewRealV1)
	}
}
