package workload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/sock_diag.h and unix_diag.h.
const (
	sockDiagByFamily = 20
	diagShowName     = 1
	diagShowPeer     = 4
	diagAttrName     = 0
	diagAttrPeer     = 2
	diagMessage      = 16 // bytes of struct unix_diag_msg: family, type, state, pad, inode, cookie
)

// readUnix asks for the local sockets of the network namespace of process pid
// (sock_diag(7)): /proc/net/unix does not tell who is connected to whom. A
// kernel without the answer gives none, and then nothing is known.
func readUnix(pid int) (map[uint64]Unix, error) {
	type answer struct {
		all map[uint64]Unix
		err error
	}
	done := make(chan answer)
	go func() {
		all, err := unixIn(fmt.Sprintf("/proc/%d/ns/net", pid))
		done <- answer{all, err}
	}()
	a := <-done
	return a.all, a.err
}

// unixIn asks on a thread that is in a network namespace and comes back: a program's
// first thread does not end with its goroutine, and would keep the namespace.
func unixIn(namespace string) (map[uint64]Unix, error) {
	ns, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("entering the network namespace: %w", err)
	}
	all, err := askUnix()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that it ends with the goroutine.
		return nil, errors.Join(err, fmt.Errorf("leaving the network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return all, err
}

func askUnix() (map[uint64]Unix, error) {
	sk, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("asking for local sockets: %w", err)
	}
	defer unix.Close(sk)
	if err := unix.Sendto(sk, diagRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("asking for local sockets: %w", err)
	}
	return receiveUnix(sk)
}

// diagRequest is struct nlmsghdr and struct unix_diag_req: all states, names
// and peers.
func diagRequest() []byte {
	b := binary.NativeEndian.AppendUint32(nil, 40) // length
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, make([]byte, 8)...)        // sequence, port
	b = append(b, unix.AF_UNIX, 0, 0, 0)     // family, protocol, padding
	b = append(b, 0xff, 0xff, 0xff, 0xff)    // states
	b = append(b, make([]byte, 4)...)        // any inode
	b = append(b, diagShowName|diagShowPeer) // one byte of a word, the rest follows
	b = append(b, make([]byte, 3)...)        //
	return append(b, make([]byte, 8)...)     // any cookie
}

func receiveUnix(sk int) (map[uint64]Unix, error) {
	all := map[uint64]Unix{}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(sk, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing local sockets: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, fmt.Errorf("listing local sockets: %w", err)
		}
		for _, m := range msgs {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return all, nil
			case unix.NLMSG_ERROR:
				return nil, fmt.Errorf("listing local sockets: %w", netlinkError(m.Data))
			case sockDiagByFamily:
				if inode, u, ok := parseUnix(m.Data); ok {
					all[inode] = u
				}
			}
		}
	}
}

func netlinkError(data []byte) error {
	if len(data) < 4 {
		return syscall.EBADMSG
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(data)))
}

// parseUnix reads struct unix_diag_msg and the attributes after it, each with
// two 16-bit words of length (of all four bytes and the value) and type.
func parseUnix(b []byte) (inode uint64, u Unix, ok bool) {
	if len(b) < diagMessage || b[0] != unix.AF_UNIX {
		return 0, Unix{}, false
	}
	u.Type = int(b[1])
	inode = uint64(binary.NativeEndian.Uint32(b[4:]))
	for b = b[diagMessage:]; len(b) >= 4; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return 0, Unix{}, false
		}
		value := b[4:n]
		switch binary.NativeEndian.Uint16(b[2:]) {
		case diagAttrName:
			u.Path = socketName(value)
		case diagAttrPeer:
			if len(value) >= 4 {
				u.Peer = uint64(binary.NativeEndian.Uint32(value))
			}
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return inode, u, true
}

// socketName writes an abstract name the way ss(8) does.
func socketName(raw []byte) string {
	if len(raw) > 0 && raw[0] == 0 {
		return "@" + string(raw[1:])
	}
	return strings.TrimRight(string(raw), "\x00")
}
