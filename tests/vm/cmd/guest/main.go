// Command guest is the first process of a virtual machine, and the server in
// it; see package guest.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"migrate/tests/vm/guest"
)

func main() {
	err := errors.New("usage: guest serve; or the first process of a machine")
	command := ""
	if len(os.Args) == 2 {
		command = os.Args[1]
	}
	switch {
	case command == "serve":
		err = guest.Listen()
	case command == "init" && os.Getpid() == 1:
		err = guest.Init()
	case os.Getpid() == 1: // the kernel hands on words of its command line
		err = guest.Boot()
	}
	fmt.Fprintln(os.Stderr, "guest:", err)
	if os.Getpid() == 1 {
		time.Sleep(100 * time.Millisecond) // for the console; the kernel panics when the first process ends
	}
	os.Exit(1)
}
