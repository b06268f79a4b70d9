package guest

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Port is where a guest listens.
const Port = 7000

// kind says what a frame carries.
type kind byte

const (
	kindRequest kind = iota + 1
	kindStdin        // also the content of a file that is put
	kindEOF          // of what kindStdin carries
	kindSignal       // one byte, for the command's process group
	kindStdout       // also the content of a file that is got
	kindStderr
	kindExit  // one byte: the exit status
	kindError // text: the request could not be done
)

// maxFrame bounds what is allocated for a frame.
const maxFrame = 1 << 20

// request is the first frame. Exactly one of its fields is set; an empty one
// asks only for an answer.
type request struct {
	Exec []string `json:"exec,omitempty"`
	Put  string   `json:"put,omitempty"` // path
	Mode uint32   `json:"mode,omitempty"`
	Get  string   `json:"get,omitempty"` // path
}

// frames is a connection. Writing may be done by several goroutines.
type frames struct {
	r  *bufio.Reader
	mu sync.Mutex
	w  io.Writer
}

func newFrames(c io.ReadWriter) *frames { return &frames{r: bufio.NewReaderSize(c, 1<<16), w: c} }

func (f *frames) write(k kind, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{byte(k)}, uint32(len(payload)))
	_, err := f.w.Write(append(head, payload...))
	return err
}

func (f *frames) writeJSON(k kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.write(k, b)
}

func (f *frames) read() (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(f.r, b); err != nil {
		return 0, nil, fmt.Errorf("in a frame: %w", err)
	}
	return kind(head[0]), b, nil
}

// stream is a writer of frames of one kind.
type stream struct {
	f *frames
	k kind
}

func (s stream) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n := min(len(b)-done, maxFrame/4)
		if err := s.f.write(s.k, b[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}
