package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// record decides whether an object is sent, sends its Entry unless content did so
// already, and remembers what it is. Content is nil if there is none.
func (p *passage) record(it *item, now state, c *content) error {
	have := it.old
	if it.group != nil {
		have = it.group.object
		it.group.done = true
	}
	unsure := p.unsure(it.path, now.ctime) || c != nil && c.short || it.group != nil && it.group.unsure
	sent := c != nil && c.sent
	if it.old != nil && have.attrs.equal(&now.attrs) && !sent {
		have.id, have.ctime, have.unsure = now.id, now.ctime, unsure
		return nil
	}
	if !sent {
		if err := p.announce(it, now.attrs); err != nil {
			return err
		}
	}
	o := &p.log[len(p.log)-1]
	o.state, o.obj.unsure = &now, unsure
	return nil
}

// announce sends the Entry of an object.
func (p *passage) announce(it *item, a attrs) error {
	e := entryOf(it, a)
	have := it.old
	if g := it.group; g != nil {
		if g.object == nil {
			g.object = &object{}
		}
		have = g.object
		if g.leader == "" {
			g.leader = it.path
		}
	} else if have == nil {
		have = &object{}
	}
	if have.kind == 0 {
		have.kind = it.kind
	}
	p.log = append(p.log, op{verb: e.verb, path: it.path, obj: have})
	return p.w.entry(e)
}

// entryOf returns the Entry that makes the target's object have the attributes.
func entryOf(it *item, a attrs) *entry {
	e := &entry{verb: create, path: it.path, attrs: a}
	switch {
	case it.old != nil:
		e.verb = update
	case it.group != nil && it.group.slot != 0 && it.group.leader == "":
		e.verb, e.slot = place, it.group.slot
	}
	return e
}

// sendFile sends what the target does not have of a regular file.
func (p *passage) sendFile(ctx context.Context, it *item) error {
	dirfd, name, err := p.tree.at(it.path)
	if err != nil {
		return err
	}
	fd, st, err := openRegular(dirfd, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st.id != it.id || p.final && st.ctime != it.ctime {
		return unix.ENOENT
	}
	now := state{attrs: st.attrs(), id: st.id, ctime: st.ctime}
	if now.xattrs, _, err = p.kind.readXattrs(dirfd, name); err != nil {
		return err
	}
	if err := p.same(dirfd, name, &st); err != nil {
		return err
	}
	c := &content{passage: p, item: it, now: &now}
	switch {
	case it.group.object != nil:
		c.old = it.group.object.sums
	case p.offered != nil:
		c.theirs = p.offered[it.path]
	}
	if err := c.compare(ctx, fd); err != nil {
		return noRoom(err)
	}
	if p.final {
		if end, _, err := statAt(fd, ""); err != nil || end.ctime != it.ctime {
			return errors.Join(ErrChanging, err)
		}
	}
	return p.record(it, now, c)
}

// noRoom keeps an error that was met in the middle of a file from being taken for a
// file that is gone.
func noRoom(err error) error {
	if gone(err) {
		return fmt.Errorf("reading: %s", err.Error())
	}
	return err
}

// content is a regular file on its way.
type content struct {
	*passage
	item   *item
	now    *state
	old    []blockSum // what the target has of the file
	theirs []blockSum // what the target has of it in its old tree
	sent   bool       // the Entry is sent, and with it some content
	short  bool       // the file was cut off while it was read
	reuse  []sum      // blocks that the target can copy, up to the current one
	at     int64      // index of the first of them
	gaps   run        // of bytes that are a hole now and were not
}

// compare reads the file and sends the blocks that differ from what the target has.
func (c *content) compare(ctx context.Context, fd int) error {
	r := newBlocks(fd, c.now.size)
	for {
		b, err := r.read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = c.block(b)
		}
		if err != nil {
			return err
		}
		c.stats.Read += int64(len(b.data))
		c.now.sums = append(c.now.sums, b.blockSum)
	}
	c.short = r.short
	for _, o := range c.old { // holes now
		if err := c.gap(o.index); err != nil {
			return err
		}
	}
	c.old = nil
	return c.flush()
}

// block sends one block, if the target does not have it.
func (c *content) block(b *block) error {
	for len(c.old) > 0 && c.old[0].index < b.index {
		if err := c.gap(c.old[0].index); err != nil {
			return err
		}
		c.old = c.old[1:]
	}
	had := len(c.old) > 0 && c.old[0].index == b.index
	if had {
		same := c.old[0].sum == b.sum
		c.old = c.old[1:]
		if same {
			return c.flush()
		}
	}
	for len(c.theirs) > 0 && c.theirs[0].index < b.index {
		c.theirs = c.theirs[1:]
	}
	if len(c.theirs) > 0 && c.theirs[0] == b.blockSum {
		c.stats.Reused += int64(len(b.data))
		return c.again(b)
	}
	if had && !b.whole(c.now.size) {
		if err := c.gap(b.index); err != nil {
			return err
		}
	}
	return c.data(b)
}

// data sends the content of a block.
func (c *content) data(b *block) error {
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	rest := b.data
	for _, r := range b.runs {
		n := r.end - r.off
		if err := c.w.data(r.off, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
		c.stats.Data += n
		c.passage.data += uint64(n)
	}
	return nil
}

// begin sends the Entry, once.
func (c *content) begin() error {
	if c.sent {
		return nil
	}
	c.sent = true
	return c.announce(c.item, c.now.attrs)
}

// again has the target copy a block from its old tree.
func (c *content) again(b *block) error {
	if len(c.reuse) == maxReuse || len(c.reuse) > 0 && c.at+int64(len(c.reuse)) != b.index {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if len(c.reuse) == 0 {
		c.at = b.index
	}
	c.reuse = append(c.reuse, b.sum)
	return nil
}

// gap has the target punch a hole where it has a block. Holes side by side are sent as one.
func (c *content) gap(index int64) error {
	hole := run{index * blockSize, (index + 1) * blockSize}
	if hole.off >= c.now.size { // cut off with the file
		return nil
	}
	hole.end = min(hole.end, c.now.size)
	if c.gaps.end == hole.off && c.gaps.end > 0 {
		c.gaps.end = hole.end
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	c.gaps = hole
	return nil
}

// flush sends what was gathered. At most one of the two is there.
func (c *content) flush() error {
	if len(c.reuse) > 0 {
		if err := c.begin(); err != nil {
			return err
		}
		r := reuse{c.at, uint32(len(c.reuse)), sumOfSums(c.reuse)}
		c.reuse = c.reuse[:0]
		return c.w.reuse(r)
	}
	if c.gaps.end == 0 {
		return nil
	}
	if err := c.begin(); err != nil {
		return err
	}
	hole := c.gaps
	c.gaps = run{}
	return c.w.hole(hole)
}
