package criu

import (
	"encoding/binary"
	"fmt"
	"io"
)

// PageClient is CRIU's side of the page server's stream, for whatever stands
// in for a CRIU. It is not safe for concurrent use.
type PageClient struct {
	conn    io.ReadWriter
	version Version
}

// NewPageClient returns a client that speaks as a CRIU of version v does.
func NewPageClient(conn io.ReadWriter, v Version) *PageClient {
	return &PageClient{conn: conn, version: v}
}

// Parent asks what a pre-dump asks of an image before it opens it.
func (c *PageClient) Parent(img PageImage) (hasParent bool, err error) {
	if err := c.send(message{cmd: cmdParent, image: img}); err != nil {
		return false, err
	}
	var answer [4]byte
	if _, err := io.ReadFull(c.conn, answer[:]); err != nil {
		return false, fmt.Errorf("page server: %w", err)
	}
	return binary.NativeEndian.Uint32(answer[:]) != 0, nil
}

// Open begins an image and returns the server's answer.
func (c *PageClient) Open(img PageImage) (hasParent bool, err error) {
	if err := c.send(message{cmd: cmdOpen, image: img}); err != nil {
		return false, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c.conn, answer[:]); err != nil {
		return false, fmt.Errorf("page server: %w", err)
	}
	return answer[0] != 0, nil
}

// Extent sends e, and data if e has PagePresent; its length must be e's.
func (c *PageClient) Extent(e Extent, data []byte) error {
	if e.Flags&PagePresent == 0 {
		data = nil
	} else if uint64(len(data)) != e.Bytes() {
		return fmt.Errorf("extent of %d bytes with %d bytes of data", e.Bytes(), len(data))
	}
	m := message{cmd: cmdAdd, flags: uint16(e.Flags), pages: e.Pages, address: e.Address, image: e.Image}
	if err := c.send(m); err != nil {
		return err
	}
	_, err := c.conn.Write(data)
	return err
}

// Close ends the stream, and fails if the server does not say that all is well.
func (c *PageClient) Close() error {
	if err := c.send(message{cmd: cmdForceClose}); err != nil {
		return err
	}
	var status [4]byte
	if _, err := io.ReadFull(c.conn, status[:]); err != nil {
		return fmt.Errorf("page server: %w", err)
	}
	if s := int32(binary.NativeEndian.Uint32(status[:])); s != 0 {
		return fmt.Errorf("page server: status %d", s)
	}
	return nil
}

func (c *PageClient) send(m message) error {
	_, err := c.conn.Write(m.appendTo(nil, c.version))
	return err
}
