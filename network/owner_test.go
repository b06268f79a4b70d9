package network

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A namespace that is made in a user namespace belongs to that.
func TestSameOwner(t *testing.T) {
	t.Parallel()
	here, err := Current()
	must(t, err)
	defer here.Close()
	for name, c := range map[string]struct {
		flags uintptr
		want  bool
	}{
		"of the host":         {unix.CLONE_NEWNET, true},
		"of a user namespace": {unix.CLONE_NEWNET | unix.CLONE_NEWUSER, false},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sleep", "100")
			cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: c.flags}
			must(t, cmd.Start())
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			ns, err := OfProcess(cmd.Process.Pid)
			must(t, err)
			defer ns.Close()
			if same, err := ns.SameOwner(here); same != c.want || err != nil {
				t.Errorf("SameOwner = %v, %v, want %v", same, err, c.want)
			}
		})
	}
}
