// Command demo moves a workload that checks itself from one host to another
// and back, both on this machine, and says what each move was like. It ends
// with PASS, or with a status that is not zero, and takes the hosts down.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"migrate"
	"migrate/internal/testhost"
	"migrate/internal/testload"
)

const (
	set     = "demo"
	capsule = "demo"
	address = "127.0.0.1:7001" // of the workload, on the host that it is on
)

func main() {
	memory := flag.Int("memory", 256, "`MiB` that the workload holds")
	dirty := flag.Int("dirty", 1000, "`pages` a second that it rewrites")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, *memory, *dirty); err != nil {
		fmt.Println("FAIL:", err)
		os.Exit(1)
	}
	fmt.Println("PASS")
}

func run(ctx context.Context, memory, dirty int) (err error) {
	fmt.Println("making hosts A and B")
	hosts, err := testhost.Start(testhost.Options{Set: set, Names: []string{"A", "B"}})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			showLogs(hosts)
		}
		err = errors.Join(err, hosts.Down())
	}()
	d := demo{host: hosts.Host("A")}
	if err := d.start(ctx, memory, dirty); err != nil {
		return err
	}
	for _, to := range []string{"B", "A"} {
		if err := d.hop(ctx, hosts.Host(to)); err != nil {
			return err
		}
	}
	_, err = d.ask(ctx, "exit 0")
	return err
}

func showLogs(hosts *testhost.Set) {
	for _, h := range hosts.Hosts() {
		fmt.Printf("agent of %s:\n%s", h.Name, h.AgentLog())
	}
}

// demo is the workload and where it is.
type demo struct{ host *testhost.Host }

func (d *demo) start(ctx context.Context, memory, dirty int) error {
	fmt.Printf("%s: starting a capsule with %d MiB that rewrites %d pages a second\n", d.host.Name, memory, dirty)
	_, err := d.host.Output(ctx, "migrate", "run", "--name", capsule, "--",
		"testload", "--memory", strconv.Itoa(memory), "--dirty", strconv.Itoa(dirty), "--hot", "0.1", "--tick", "1ms", "--listen", address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	status, err := testload.Await(ctx, d.host, address)
	if err != nil {
		return err
	}
	return status.Check()
}

// hop moves the workload and asks it, before and after, how it is.
func (d *demo) hop(ctx context.Context, to *testhost.Host) error {
	before, err := d.ask(ctx, "reset-gap")
	if err != nil {
		return err
	}
	from := d.host
	out, err := from.Output(ctx, "migrate", "move", "capsule:"+capsule, to.Name, "--json")
	if err != nil {
		return err
	}
	report, err := testhost.Report(out)
	if err != nil {
		return err
	}
	d.host = to
	after, err := d.ask(ctx, "verify")
	if err != nil {
		return err
	}
	fmt.Printf("\n%s to %s: %s, now owned by the %s\n", from.Name, to.Name, report.Status, report.Owner)
	printReport(report)
	printClocks(report, before, after)
	return errors.Join(after.Check(), checkMove(report, before, after))
}

func (d *demo) ask(ctx context.Context, request string) (testload.Status, error) {
	return testload.Ask(ctx, d.host, address, request)
}

// checkMove compares what the workload says with what the report says.
func checkMove(r migrate.Report, before, after testload.Status) error {
	var errs []error
	if r.Status != migrate.StatusCompleted || r.Owner != migrate.OwnerTarget {
		errs = append(errs, fmt.Errorf("status %s, owner %s", r.Status, r.Owner))
	}
	if before.PID != after.PID {
		errs = append(errs, fmt.Errorf("PID %d has become %d", before.PID, after.PID))
	}
	if after.Mono <= before.Mono || after.Boot <= before.Boot {
		errs = append(errs, errors.New("a monotonic clock stepped back"))
	}
	if after.BootLead < min(0, before.BootLead) {
		errs = append(errs, fmt.Errorf("CLOCK_BOOTTIME was %d ns below CLOCK_MONOTONIC", -after.BootLead))
	}
	return errors.Join(errs...)
}
