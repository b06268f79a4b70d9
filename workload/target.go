package workload

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"migrate"
	"migrate/workload/proc"
)

// TargetChecks is what a target adds to the checks of [TargetFindings].
type TargetChecks struct {
	// NameTaken reports whether a workload of that name is on this host.
	NameTaken func(name string) bool
	// CompareFiles says what differs between the files that the workload
	// needs and those of this host.
	CompareFiles func([]migrate.File) []migrate.Finding
}

// TargetFindings says what on this host stands in the way of restoring w: all
// of it, each with what to do. The host changes, so a clean answer is no promise.
func TargetFindings(w migrate.Workload, c TargetChecks) []migrate.Finding {
	var list []migrate.Finding
	if c.NameTaken(w.Name) {
		list = append(list, migrate.Finding{
			Code:   CodeNameTaken,
			What:   fmt.Sprintf("a workload named %s is already on this host", w.Name),
			Advice: "stop it, or move it away first",
		})
	}
	if !w.OwnPIDs {
		list = append(list, pidFindings(w, pidMax(), numbersHere())...)
	}
	if !w.OwnNet {
		list = append(list, addressFindings(w.Listeners, boundHere(), localAddresses())...)
	}
	return append(list, c.CompareFiles(w.Files)...)
}

// wantedPIDs returns every number that a restore takes: those of processes and
// threads, and of the leaders of groups and sessions, for which CRIU makes a
// stand-in when they have ended. The session and group that a shell's job was in
// are replaced by those of the restorer.
func wantedPIDs(w migrate.Workload) []int {
	var pids []int
	for _, t := range w.Tasks {
		pids = append(pids, t.VPID, t.Group, t.Session)
		pids = append(pids, t.Threads...)
	}
	if w.ShellJob && len(w.Tasks) > 0 {
		root := w.Tasks[0]
		outside := func(pid int) bool {
			return pid == root.Session || pid == root.Group && root.Group != root.VPID
		}
		pids = slices.DeleteFunc(pids, outside)
	}
	slices.Sort(pids)
	return slices.DeleteFunc(slices.Compact(pids), func(pid int) bool { return pid <= 0 })
}

func pidFindings(w migrate.Workload, limit int, holder func(pid int) string) []migrate.Finding {
	var list []migrate.Finding
	for _, pid := range wantedPIDs(w) {
		if limit > 0 && pid >= limit {
			list = append(list, migrate.Finding{
				Code:   CodePIDTooLarge,
				What:   fmt.Sprintf("process number %d is above this host's kernel.pid_max of %d", pid, limit),
				Advice: "raise kernel.pid_max on the target",
			})
		} else if name := holder(pid); name != "" {
			list = append(list, migrate.Finding{
				Code:   CodePIDTaken,
				What:   fmt.Sprintf("process number %d is taken on the target by %s", pid, name),
				Advice: "end that process, or start the workload with migrate run, which gives it process numbers of its own",
			})
		}
	}
	return list
}

func pidMax() int {
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// numbersHere returns a function that names who has a number here, "" if nobody.
// A number is taken not only by a process or thread but for as long as a process,
// be it a zombie, has it as its group or session: clone3(2) then gives EEXIST
// (seen with CRIU 4.2.1: "Can't fork for N: File exists"), although there is no
// /proc/N.
func numbersHere() func(pid int) string {
	joined := map[int]string{}
	all, _ := proc.All() // without it, processes and threads are still found
	for _, p := range all {
		joined[p.Group] = fmt.Sprintf("the process group of process %d (%s)", p.PID, p.Comm)
		joined[p.Session] = fmt.Sprintf("the session of process %d (%s)", p.PID, p.Comm)
	}
	return func(pid int) string {
		// It exists for a thread as well, although /proc does not list it.
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
			return strings.TrimSpace(string(b))
		}
		return joined[pid]
	}
}

// boundHere returns "tcp 0.0.0.0:80" for every address in use, in our own
// network namespace.
func boundHere() []string {
	var list []string
	for _, s := range readInet("/proc/self/net") {
		if s.Proto == "udp" || s.State == tcpListen {
			list = append(list, s.Proto+" "+s.Local)
		}
	}
	return list
}

// addressFindings compares addresses to bind with those bound. One without a
// host conflicts with any on the same port, whatever options the sockets have:
// too strict for SO_REUSEPORT, which is rare and cannot be seen from outside.
func addressFindings(wanted, bound []string, local map[netip.Addr]bool) []migrate.Finding {
	var list []migrate.Finding
	for _, want := range wanted {
		proto, addr, ok := parseListener(want)
		if !ok {
			continue
		}
		if slices.ContainsFunc(bound, func(have string) bool { return conflict(proto, addr, have) }) {
			list = append(list, migrate.Finding{
				Code:   CodeAddressTaken,
				What:   fmt.Sprintf("%s is in use on the target", want),
				Advice: "stop what listens there",
			})
		}
		// CRIU binds IPv6 with IP_FREEBIND (sk-inet.c, inet_bind), IPv4 not.
		if a := addr.Addr(); a.Is4() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !local[a] {
			list = append(list, migrate.Finding{
				Code:   CodeAddressMissing,
				What:   fmt.Sprintf("%s: the target does not have the address %s", want, a),
				Advice: "add the address on the target, or let the workload listen on 0.0.0.0",
			})
		}
	}
	return list
}

func conflict(proto string, want netip.AddrPort, bound string) bool {
	p, have, ok := parseListener(bound)
	if !ok || p != proto || have.Port() != want.Port() {
		return false
	}
	return have.Addr() == want.Addr() || have.Addr().IsUnspecified() || want.Addr().IsUnspecified()
}

func parseListener(s string) (proto string, addr netip.AddrPort, ok bool) {
	proto, rest, ok := strings.Cut(s, " ")
	addr, err := netip.ParseAddrPort(rest)
	return proto, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), ok && err == nil
}
