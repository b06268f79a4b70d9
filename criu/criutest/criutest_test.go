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
