package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"migrate/criu"
	"migrate/internal/testhost"
)

const (
	images   = "/run/images" // on a tmpfs, on either host
	copyPort = 7500
	pagePort = 7501
)

// copied is "criu dump" into memory on one host, a copy of the images over one
// TCP connection, and "criu restore" from memory on the other. The target waits
// with its command typed in. What the dump took is all counted as frozen.
func copied(ctx context.Context, from, to *testhost.Host, e *Entry, pid int) error {
	return ship(ctx, from, to, e, pid, nil, `criu restore -d -D . --tcp-close -o restore.log -v1`)
}

// lazily is CRIU's own post-copy: the source keeps the pages and serves them,
// all else is copied and restored at once. It is finished when the last page
// was served.
func lazily(ctx context.Context, from, to *testhost.Host, e *Entry, pid int) error {
	narrow, err := widenPipes()
	if err != nil {
		return err
	}
	return errors.Join(ship(ctx, from, to, e, pid,
		[]string{"--lazy-pages", "--address", from.Address(), "--port", strconv.Itoa(pagePort), "--status-fd", "1"},
		fmt.Sprintf(`criu lazy-pages -d -D . --page-server --address %s --port %d -o lazy.log -v1 &&
			criu restore -d -D . --lazy-pages --tcp-close -o restore.log -v1`, from.Address(), pagePort)), narrow())
}

// ship dumps on one host, copies the images, and runs a script on the other.
func ship(ctx context.Context, from, to *testhost.Host, e *Entry, pid int, lazy []string, restore string) (err error) {
	tool, err := criu.Find(ctx, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeImages(ctx, from, err), removeImages(ctx, to, err)) }()
	const script = `mkdir ` + images + ` && cd ` + images + ` && criu() { "$0" "$@"; } && `
	target := shell(ctx, to, script+`read go && `+restore, tool.Path)
	goAhead, err := target.StdinPipe()
	if err != nil {
		return err
	}
	if err := target.Start(); err != nil {
		return err
	}
	defer target.Wait()
	defer goAhead.Close()
	source := shell(ctx, from, script+`criu dump -t "$@" -D . --tcp-close --network-lock skip -o dump.log -v1`,
		append([]string{tool.Path, strconv.Itoa(pid)}, lazy...)...)
	begun, sent := time.Now(), bytesSent(from)
	finish, err := dump(source, lazy != nil)
	if err != nil {
		return err
	}
	e.Frozen = append(e.Frozen, ms(time.Since(begun)))
	if err := copyImages(ctx, from, to); err != nil {
		return errors.Join(err, finish())
	}
	if _, err := io.WriteString(goAhead, "go\n"); err != nil {
		return errors.Join(err, finish())
	}
	if err := target.Wait(); err != nil {
		return errors.Join(fmt.Errorf("restore: %w", err), finish())
	}
	if err := finish(); err != nil {
		return err
	}
	e.Total = append(e.Total, ms(time.Since(begun)))
	e.Wire = append(e.Wire, bytesSent(from)-sent)
	return nil
}

// dump runs a dump until it has written all its images. One that is lazy then
// goes on serving pages, which finish waits for.
func dump(cmd *exec.Cmd, lazy bool) (finish func() error, err error) {
	status, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	finish = func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("dump: %w", err)
		}
		return nil
	}
	// The byte of --status-fd, or the end of the dump.
	if _, err := io.ReadFull(status, make([]byte, 1)); err == nil {
		return finish, nil
	}
	if err := finish(); err != nil || lazy {
		return nil, errors.Join(errors.New("the dump has ended"), err)
	}
	return func() error { return nil }, nil
}

// widenPipes lets CRIU's page server have pipes of 4 MiB where the machine gives
// no process the right to more than the limit (CAP_SYS_RESOURCE): it asks for 3.2 MiB
// (criu/page-pipe.c), goes on with 64 KiB if it is refused, and then fails. The
// returned function puts the limit back.
func widenPipes() (restore func() error, err error) {
	const limit, need = "/proc/sys/fs/pipe-max-size", 4 << 20
	old, err := os.ReadFile(limit)
	if err != nil {
		return nil, err
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(old))); err != nil || n >= need {
		return func() error { return nil }, err
	}
	restore = func() error { return os.WriteFile(limit, old, 0o644) }
	return restore, os.WriteFile(limit, []byte(strconv.Itoa(need)), 0o644)
}

func shell(ctx context.Context, h *testhost.Host, script string, args ...string) *exec.Cmd {
	return h.Command(ctx, "sh", append([]string{"-c", script}, args...)...)
}

// removeImages removes the images, and says of a failure what CRIU said.
func removeImages(ctx context.Context, h *testhost.Host, failed error) error {
	if failed != nil {
		out, _ := h.Output(ctx, "sh", "-c", "tail -n 5 "+images+"/*.log") // the failure itself is known
		failed = fmt.Errorf("host %s: %s", h.Name, out)
	}
	_, err := h.Output(ctx, "rm", "-rf", images)
	return errors.Join(failed, err)
}

// bytesSent returns what a host has sent since it is up, all of it: beside the
// images there are the client's connections, which are idle meanwhile.
func bytesSent(h *testhost.Host) uint64 {
	b, _ := os.ReadFile(h.Path("/sys/class/net/eth0/statistics/tx_bytes"))
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// copyImages copies the images as they are, as fast as one TCP connection can.
func copyImages(ctx context.Context, from, to *testhost.Host) error {
	address := fmt.Sprintf("%s:%d", to.Address(), copyPort)
	l, err := to.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	received := make(chan error, 1)
	go func() { received <- receiveFiles(l, to.Path(images)) }()
	conn, err := from.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if err := errors.Join(sendFiles(conn, from.Path(images)), conn.Close()); err != nil {
		return fmt.Errorf("send images: %w", err)
	}
	return <-received
}

// sendFiles writes name, size and content of every image.
func sendFiles(w io.Writer, dir string) error {
	list, err := filepath.Glob(filepath.Join(dir, "*.img"))
	if err != nil {
		return err
	}
	for _, path := range list {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		st, err := f.Stat()
		if err == nil {
			_, err = fmt.Fprintln(w, filepath.Base(path), st.Size())
		}
		if err == nil {
			_, err = io.Copy(w, f)
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func receiveFiles(l net.Listener, dir string) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 1<<20)
	for {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return nil
		}
		if err != nil {
			return err
		}
		if err := receiveFile(r, dir, line); err != nil {
			return err
		}
	}
}

func receiveFile(r io.Reader, dir, line string) error {
	var name string
	var size int64
	if _, err := fmt.Sscan(line, &name, &size); err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	f, err := os.Create(filepath.Join(dir, filepath.Base(name)))
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, r, size)
	return errors.Join(err, f.Close())
}
