package testload

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// listen answers on address. A line that comes over TCP is a request; see
// [load.answer]. A datagram comes back as it was.
func (l *load) listen(address string) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // CRIU 4.2 cannot dump MPTCP sockets, which are Go's default
	tcp, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		return err
	}
	go l.accept(tcp)
	go l.echo(udp)
	return nil
}

func (l *load) accept(tcp net.Listener) {
	for {
		c, err := tcp.Accept()
		if err != nil {
			l.fail(fmt.Errorf("listener: %w", err))
			return
		}
		go l.serve(c)
	}
}

// serve ends when the client closes; its errors are the client's business.
func (l *load) serve(c net.Conn) {
	defer c.Close()
	for in := bufio.NewScanner(c); in.Scan(); {
		if _, err := io.WriteString(c, l.answer(in.Text())+"\n"); err != nil {
			return
		}
	}
}

// answer carries out one request: "status"; "verify", which first checks
// everything; "reset-gap"; or "exit N". Any other line comes back as it was.
func (l *load) answer(line string) string {
	word, arg, _ := strings.Cut(line, " ")
	switch word {
	case "status":
	case "verify":
		l.verify()
	case "reset-gap":
		l.watcher.reset()
	case "exit":
		code, err := strconv.Atoi(arg)
		if err != nil {
			return "exit: " + err.Error()
		}
		time.AfterFunc(50*time.Millisecond, func() { l.ended <- code }) // after the answer
	default:
		return line
	}
	b, err := json.Marshal(l.status())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (l *load) echo(udp net.PacketConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := udp.ReadFrom(b)
		if err != nil {
			l.fail(fmt.Errorf("datagrams: %w", err))
			return
		}
		// A client that has gone is no error of ours.
		_, _ = udp.WriteTo(b[:n], from)
	}
}

// Query sends one request to the workload at address and returns its answer.
// When it returns, the workload has closed its end: no connection is left that
// would be in the way of a move.
func Query(ctx context.Context, address, request string) (string, error) {
	var d net.Dialer
	return query(ctx, d.DialContext, address, request)
}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

func query(ctx context.Context, dial dial, address, request string) (string, error) {
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := io.WriteString(c, request+"\n"); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return "", fmt.Errorf("%s: %w", request, err)
	}
	if len(answer) == 0 {
		return "", fmt.Errorf("%s: %w", request, io.ErrUnexpectedEOF)
	}
	return strings.TrimSuffix(string(answer), "\n"), nil
}
