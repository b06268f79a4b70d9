package predump

import (
	"sync"
	"testing"
)

// TestProbesBesideEachOther: a probe unmaps nothing that is another's. Without
// that, some of so many crash the program.
func TestProbesBesideEachOther(t *testing.T) {
	first := Probe()
	var work sync.WaitGroup
	for range 16 {
		work.Go(func() {
			for range 100 {
				if got := Probe(); (got.UffdWP == nil) != (first.UffdWP == nil) {
					t.Errorf("Probe = %v, the first time %v", got.UffdWP, first.UffdWP)
				}
			}
		})
	}
	work.Wait()
}
