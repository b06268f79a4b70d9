package criutest_test

import (
	"testing"

	"migrate/criu/criutest"
)

func TestReal(t *testing.T) { criutest.Run(t, criutest.NewReal) }
