package source

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"migrate/criu"
	"migrate/predump"
	"migrate/source/pages"
)

// codePages has, by image, a page of each task as it was before CRIU began: the
// one that CRIU puts instructions of its own into, and takes out again, whenever
// it has the task make a system call (find_executable_area in
// compel/src/lib/infect.c). Memory is read beside CRIU, and must not be read from
// there in such a moment.
type codePages map[uint64]codePage

type codePage struct {
	address uint64
	content []byte
}

// readCodePages reads them of frozen tasks. A task that has none cannot be
// dumped, which CRIU says.
func readCodePages(tasks []predump.Task) (codePages, error) {
	c := codePages{}
	for _, t := range tasks {
		maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", t.PID))
		if err != nil {
			return nil, err
		}
		address, ok := firstExecutable(maps)
		maps.Close()
		if !ok {
			continue
		}
		content := make([]byte, pageSize)
		if err := predump.ReadPages(t.PID, address, content); err != nil {
			return nil, err
		}
		c[uint64(t.VPID)] = codePage{address, content}
	}
	return c, nil
}

// firstExecutable returns the start of the first mapping that is executable.
func firstExecutable(maps io.Reader) (start uint64, ok bool) {
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || !strings.Contains(f[1], "x") {
			continue
		}
		from, _, _ := strings.Cut(f[0], "-")
		start, err := strconv.ParseUint(from, 16, 64)
		return start, err == nil
	}
	return 0, false
}

// instead returns a reader that reads these pages from here.
func (c codePages) instead(read pages.Reader) pages.Reader {
	return func(im predump.Image, address uint64, buf []byte) error {
		if err := read(im, address, buf); err != nil {
			return err
		}
		p, ok := c[im.ID]
		if ok && im.Type == uint8(criu.TaskImage) && p.address >= address && p.address+pageSize <= address+uint64(len(buf)) {
			copy(buf[p.address-address:], p.content)
		}
		return nil
	}
}
