package guest

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// serverUnit makes the server a service, as sshd is on other hosts. What it runs
// outlives it, but not the service: as in a session of a person's.
const serverUnit = `[Unit]
Description=Server of the virtual machine's owner
[Service]
ExecStart=` + Path + ` serve
Environment=HOME=/root LANG=C.UTF-8 PATH=` + searchPath + `
WorkingDirectory=/root
TasksMax=infinity
`

// machineID is a boot's that is not the first one: else systemd would ask who
// sits there for a time zone and a password.
const machineID = "6d6967726174650000000000000000ff\n"

// becomeSystemd makes systemd the first process of a host that is mounted and has
// its network. It returns only if it fails.
func becomeSystemd() error {
	const units = "/run/systemd/system"
	if err := errors.Join(
		os.MkdirAll(units+"/multi-user.target.wants", 0o755),
		os.WriteFile(units+"/guest.service", []byte(serverUnit), 0o644),
		os.Symlink("../guest.service", units+"/multi-user.target.wants/guest.service"),
		os.WriteFile("/etc/machine-id", []byte(machineID), 0o444),
	); err != nil {
		return err
	}
	const program = "/usr/lib/systemd/systemd"
	return unix.Exec(program, []string{program}, os.Environ())
}
