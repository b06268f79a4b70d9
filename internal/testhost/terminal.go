package testhost

import (
	"io"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// runOnTerminal runs cmd on a new terminal of the host's, with the process's
// own in raw mode in front of it, as ssh does.
func runOnTerminal(cmd *exec.Cmd) (int, error) {
	master, err := startOnTerminal(cmd)
	if err != nil {
		return 0, err
	}
	defer master.Close()
	old, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return 0, err
	}
	defer func() { _ = term.Restore(int(os.Stdin.Fd()), old) }() // nothing else to be done with it
	defer followSize(master)()
	defer passSignals(cmd)()

	drained := make(chan struct{})
	go func() {
		// Reading ends with EIO when the last user of the terminal has gone.
		_, _ = io.Copy(os.Stdout, master)
		close(drained)
	}()
	go func() { _, _ = io.Copy(master, os.Stdin) }() // ends with the process
	code, err := status(cmd.Wait())
	select {
	case <-drained:
	case <-time.After(outputDelay): // a daemon holds the terminal
	}
	return code, err
}

// startOnTerminal starts cmd with a new terminal as its controlling one and
// returns the terminal's master.
func startOnTerminal(cmd *exec.Cmd) (*os.File, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	_ = pty.InheritSize(os.Stdin, master) // a terminal may have no size
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		master.Close()
		return nil, err
	}
	return master, nil
}

// followSize keeps the size of the host's terminal that of the process's own.
func followSize(master *os.File) (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGWINCH)
	go func() {
		for range c {
			_ = pty.InheritSize(os.Stdin, master)
		}
	}()
	return func() { signal.Stop(c); close(c) }
}
