package supervisor

import (
	"bytes"
	"sync"
)

const (
	// scrollback is how much of a terminal's output a new client gets to see.
	scrollback = 64 << 10
	// backlog is how many reads' worth of output a client may be behind.
	backlog = 512
)

// hub hands output to attached clients. A client that does not keep up is
// detached: the workload never waits for one.
type hub struct {
	keep int // bytes to keep for new clients

	mu     sync.Mutex
	tail   []byte
	subs   map[chan []byte]bool
	closed bool
}

func (h *hub) publish(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keep > 0 {
		h.tail = append(h.tail, b...)
		h.tail = h.tail[max(0, len(h.tail)-h.keep):]
	}
	if len(h.subs) == 0 {
		return
	}
	b = bytes.Clone(b)
	for c := range h.subs {
		select {
		case c <- b:
		default:
			delete(h.subs, c)
			close(c)
		}
	}
}

// subscribe returns a channel of output that is closed at the end of it, when
// the client is too slow, and by cancel.
func (h *hub) subscribe() (output <-chan []byte, cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := make(chan []byte, backlog)
	if len(h.tail) > 0 {
		c <- bytes.Clone(h.tail)
	}
	if h.closed {
		close(c)
		return c, func() {}
	}
	if h.subs == nil {
		h.subs = map[chan []byte]bool{}
	}
	h.subs[c] = true
	return c, func() { h.drop(c) }
}

func (h *hub) drop(c chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs[c] {
		delete(h.subs, c)
		close(c)
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.subs {
		close(c)
	}
	h.subs = nil
}
