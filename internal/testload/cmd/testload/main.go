// Command testload is a workload that checks itself; see package testload.
//
//	testload [flags]                          run it
//	testload query ADDRESS REQUEST            status, verify, reset-gap or "exit N"
//	testload client [flags] ADDRESS...        watch it by datagrams and report the largest gap
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"migrate/internal/testload"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testload:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	if len(args) > 0 {
		switch args[0] {
		case "child":
			return testload.RunChild(), nil
		case "query":
			return 0, query(args[1:])
		case "client":
			return 0, client(args[1:])
		}
	}
	var c testload.Config
	f := flag.NewFlagSet("testload", flag.ExitOnError)
	c.Flags(f)
	_ = f.Parse(args) // exits by itself
	if f.NArg() > 0 {
		return 2, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return testload.Run(c)
}

func query(args []string) error {
	if len(args) < 2 {
		return errors.New("query: want an address and a request")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := testload.Query(ctx, args[0], strings.Join(args[1:], " "))
	if err != nil {
		return err
	}
	fmt.Println(answer)
	return nil
}

func client(args []string) error {
	f := flag.NewFlagSet("testload client", flag.ExitOnError)
	interval := f.Duration("interval", time.Millisecond, "`time` between datagrams")
	duration := f.Duration("duration", 0, "`time` to watch (default until interrupted)")
	_ = f.Parse(args) // exits by itself
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	if *duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}
	seen, err := testload.Watch(ctx, *interval, f.Args()...)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(seen)
}
