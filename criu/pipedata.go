package criu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	pipedata "github.com/checkpoint-restore/go-criu/v7/crit/images/pipe-data"
	"google.golang.org/protobuf/proto"
)

const (
	pipesImage = "pipes-data.img" // what is in pipes that the tree reads from

	maxPipeEntry = 64       // three numbers
	maxPipeData  = 64 << 20 // of one pipe that is asked for; see pipe(7)
)

// PipeContent is what was in a pipe when it was dumped.
type PipeContent struct {
	Data []byte
	Size int // capacity, as of F_SETPIPE_SZ; 0 if it is not known
}

// ReadPipes returns the content of those pipes that the images in dir hold,
// by inode. CRIU does not fill a pipe that a restore inherits (open_pipe of
// pipes.c): whoever made it has to.
func ReadPipes(dir string, inodes ...uint64) (map[uint64]PipeContent, error) {
	if len(inodes) == 0 {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(dir, pipesImage))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := readPipes(bufio.NewReader(f), inodes)
	if err != nil {
		return nil, fmt.Errorf("image of pipe content: %w", err)
	}
	return found, nil
}

func readPipes(r io.Reader, inodes []uint64) (map[uint64]PipeContent, error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, errShort
	}
	if _, err := openImage(head, pipesMagic); err != nil {
		return nil, err
	}
	found := map[uint64]PipeContent{}
	for {
		e, err := readPipeEntry(r)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		// The image has the lower half of an inode only, as its key for CRIU has.
		i := slices.IndexFunc(inodes, func(n uint64) bool { return uint32(n) == e.GetPipeId() })
		if i < 0 {
			_, err = io.CopyN(io.Discard, r, int64(e.GetBytes()))
		} else {
			found[inodes[i]], err = readPipe(r, e)
		}
		if err != nil {
			return nil, err
		}
	}
}

// readPipeEntry returns [io.EOF] at the end.
func readPipeEntry(r io.Reader) (*pipedata.PipeDataEntry, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, errShort
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n > maxPipeEntry {
		return nil, fmt.Errorf("entry of %d bytes", n)
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, errShort
	}
	var e pipedata.PipeDataEntry
	return &e, proto.Unmarshal(msg, &e)
}

func readPipe(r io.Reader, e *pipedata.PipeDataEntry) (PipeContent, error) {
	if e.GetBytes() > maxPipeData || e.GetSize() > maxPipeData {
		return PipeContent{}, fmt.Errorf("pipe %d holds %d of %d bytes: too much", e.GetPipeId(), e.GetBytes(), e.GetSize())
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(e.GetBytes())))
	if err == nil && len(data) < int(e.GetBytes()) {
		err = errShort
	}
	return PipeContent{data, int(e.GetSize())}, err
}
