// Package testhost makes isolated hosts on one machine, so that tests, the
// demo and a person have "two hosts" in a second.
//
// A set is some hosts (A, B and C unless told otherwise) joined by one bridge.
// Each host has its own network, PID, mount, UTS, IPC and cgroup namespaces; a
// PID 1 that reaps; its own /proc, /sys, /dev/pts, /run, /var/lib/migrate and
// /etc/migrate; the address 10.77.0.N; a certificate; and a running "migrate
// agent". The bridge has a network namespace of its own, so that nothing shows
// on the machine. The rest of the file system is the machine's and so is the
// same on every host.
//
// Everything a set consists of can be found again by the set's name: its
// directory below /run/migrate-testhosts, the processes that run the binary in
// there, and cgroups with the set's name in theirs. [Set.Down] therefore needs
// no record of what was done, and cleans up after an Up that was killed halfway.
//
// The package needs root, iproute2 and util-linux's setsid.
package testhost
