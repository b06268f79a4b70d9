package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// KeysFile is where the initial file system has the keys that may log in as
// root, if there are any: the disk's file system is the same for everybody.
const KeysFile = "/authorized_keys"

const hostKey = "/etc/ssh/ssh_host_ed25519_key"

// leaseScript is what udhcpc(8) calls with what it was given.
const leaseScript = `#!/bin/sh
case $1 in bound | renew)
	ip address replace "$ip/$mask" dev "$interface"
	[ -z "$router" ] || ip route replace default via "${router%% *}"
	;;
esac
`

// installKeys copies the keys to the mounted disk, if there are any.
func installKeys(root string) error {
	b, err := os.ReadFile(KeysFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	dir := filepath.Join(root, "root", ".ssh")
	return errors.Join(err, os.MkdirAll(dir, 0o700), os.Chmod(filepath.Dir(dir), 0o700),
		os.WriteFile(filepath.Join(dir, "authorized_keys"), b, 0o600))
}

// startSSH asks for an address and starts the SSH server.
func (s Settings) startSSH() error {
	const script = "/run/udhcpc"
	if err := errors.Join(os.WriteFile(script, []byte(leaseScript), 0o755), os.MkdirAll("/run/sshd", 0o755)); err != nil {
		return err
	}
	link, err := controlLink()
	if err != nil {
		return err
	}
	if _, err := start("/usr/bin/busybox", "udhcpc", "-f", "-t", "0", "-i", link, "-s", script); err != nil {
		return err
	}
	if _, err := os.Stat(hostKey); err != nil {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w\n%s", err, out)
		}
	}
	_, err = start("/usr/sbin/sshd", "-D", "-f", "/dev/null", "-o", "HostKey="+hostKey, "-o", "UsePAM=no", "-o", "UseDNS=no", "-o", "PasswordAuthentication=no")
	return err
}

func controlLink() (string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, i := range interfaces {
		if strings.HasPrefix(i.HardwareAddr.String(), ControlMAC) {
			return i.Name, nil
		}
	}
	return "", errors.New("no interface for DHCP")
}
