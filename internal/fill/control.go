package fill

import (
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// order is what the parent says, and word what a filler says; each is one
// packet of JSON. Orders are answered in turn.
type order struct {
	Open *Spec `json:"open,omitempty"`
	Hold bool  `json:"hold,omitempty"`
	Go   bool  `json:"go,omitempty"`
}

type word struct {
	Answer   bool      `json:"answer,omitempty"`
	Keeper   int       `json:"keeper,omitempty"` // a new one
	Progress *Progress `json:"progress,omitempty"`
	Error    string    `json:"error,omitempty"` // its last word
}

// Progress is how far a tree's memory is filled in. Total rises when the tree
// forks.
type Progress struct {
	Total    uint64 `json:"total"` // bytes
	Done     uint64 `json:"done"`  // bytes
	Complete bool   `json:"complete,omitempty"`
}

// maxPacket bounds a packet: two paths and some numbers.
const maxPacket = 32 << 10

// control is the filler's end of the socket. A parent that has died is no error:
// the tree goes on, and so do we.
type control struct {
	fd   int
	lost bool
}

func (c *control) say(w word) {
	b, err := json.Marshal(w)
	if err != nil || c.lost {
		return
	}
	flags := unix.MSG_NOSIGNAL
	if w.Progress != nil && !w.Progress.Complete {
		flags |= unix.MSG_DONTWAIT // a parent that is behind hears the next one
	}
	for {
		if err := unix.Sendto(c.fd, b, flags, nil); err != unix.EINTR {
			return
		}
	}
}

// next returns one order, and false if none waits. It notes the parent's end.
func (c *control) next() (o order, ok bool, err error) {
	b := make([]byte, maxPacket)
	n, _, err := unix.Recvfrom(c.fd, b, unix.MSG_DONTWAIT)
	switch {
	case err == unix.EAGAIN, err == unix.EINTR:
		return o, false, nil
	case err == unix.ECONNRESET, err == nil && n == 0:
		c.lost = true
		unix.Close(c.fd)
		c.fd = -1
		return o, false, nil
	case err != nil:
		return o, false, err
	}
	if err := json.Unmarshal(b[:n], &o); err != nil {
		return o, false, errors.Join(fmt.Errorf("order of %d bytes", n), err)
	}
	return o, true, nil
}
