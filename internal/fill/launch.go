package fill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spec is what a filler needs for a restore.
type Spec struct {
	Map       string `json:"map"`        // path of the map (package lazymap); removed once the store is being used up
	ImagesDir string `json:"images-dir"` // of CRIU
	WorkDir   string `json:"work-dir"`   // of CRIU, which looks there for the filler's socket
}

// Process is a filler as its parent sees it. Methods may be called from several
// goroutines, but only one order ([Process.Open], [Process.Hold],
// [Process.Go]) at a time.
type Process struct {
	pid     int
	socket  *os.File
	answers chan struct{}
	ended   chan struct{} // closed when it is not heard any more

	mu     sync.Mutex
	keeper int // pidfd; -1 if there is none
	fault  string
}

// Launch starts a filler, which waits for orders, as a child that the caller
// reaps. Its log goes to log. told is called with its progress, from one goroutine.
func Launch(log *os.File, told func(Progress)) (*Process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("starting a filler: %w", err)
	}
	_ = unix.SetNonblock(fds[0], true) // so that the runtime polls it
	ours, theirs := os.NewFile(uintptr(fds[0]), "filler"), os.NewFile(uintptr(fds[1]), "supervisor")
	defer theirs.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting a filler: %w", err), ours.Close())
	}
	defer null.Close()
	// By this name even after an upgrade the program is the one that runs.
	child, err := os.StartProcess("/proc/self/exe", []string{os.Args[0], Verb}, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, log, log, theirs}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting a filler: %w", err), ours.Close())
	}
	p := &Process{pid: child.Pid, socket: ours, keeper: -1, answers: make(chan struct{}, 1), ended: make(chan struct{})}
	go p.listen(told)
	return p, child.Release()
}

// PID returns its number.
func (p *Process) PID() int { return p.pid }

// listen hears it out. Its keeper holds the other end of the socket open, so
// the end of the process shows elsewhere.
func (p *Process) listen(told func(Progress)) {
	defer close(p.ended)
	b := make([]byte, maxPacket)
	for {
		n, err := p.socket.Read(b)
		if err != nil || n == 0 {
			return
		}
		var w word
		if json.Unmarshal(b[:n], &w) != nil {
			return
		}
		switch {
		case w.Keeper != 0:
			p.setKeeper(w.Keeper)
		case w.Progress != nil:
			told(*w.Progress)
		case w.Error != "":
			p.mu.Lock()
			p.fault = w.Error
			p.mu.Unlock()
			return
		case w.Answer:
			select {
			case p.answers <- struct{}{}:
			default: // nobody waits for it any more
			}
		}
	}
}

func (p *Process) setKeeper(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keeper >= 0 {
		unix.Close(p.keeper)
	}
	var err error
	if p.keeper, err = unix.PidfdOpen(pid, 0); err != nil {
		p.keeper = -1
	}
}

// Fault returns what the filler said last if that was an error.
func (p *Process) Fault() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// Open has it open the store and listen for CRIU. The restore may be begun
// when it returns nil.
func (p *Process) Open(ctx context.Context, s Spec) error { return p.order(ctx, order{Open: &s}) }

// Hold has it fill in what must be there before the tree runs, and makes sure
// that it knows the whole tree. The tree must be restored and not run yet.
func (p *Process) Hold(ctx context.Context) error { return p.order(ctx, order{Hold: true}) }

// Go has it fill in the rest in the background. Before that it only serves
// faults and leaves the store as it is. So does the end of the parent.
func (p *Process) Go(ctx context.Context) error { return p.order(ctx, order{Go: true}) }

func (p *Process) order(ctx context.Context, o order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if _, err := p.socket.Write(b); err != nil {
		return p.blame(err)
	}
	select {
	case <-p.answers:
		return nil
	case <-p.ended:
		return p.blame(errors.New("the filler has ended"))
	case <-ctx.Done():
		return p.blame(context.Cause(ctx))
	}
}

// blame prefers the filler's own word.
func (p *Process) blame(err error) error {
	if f := p.Fault(); f != "" {
		return errors.New(f)
	}
	return err
}

// Close kills the keeper, and has a filler that was not told to open anything
// end by itself. The filler must have ended otherwise, and nothing of the tree may run
// unless its memory is complete: what is missing would read as zeros from now on.
func (p *Process) Close() {
	p.socket.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keeper < 0 {
		return
	}
	_ = unix.PidfdSendSignal(p.keeper, unix.SIGKILL, nil, 0) // or it has ended with its filler
	unix.Close(p.keeper)
	p.keeper = -1
}
