package vm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"migrate/tests/vm/guest"
)

// writeInitrd writes the initial file system for a kernel: the guest program,
// the modules for the disk and, unless it is "", a file of keys that may log in.
// It is not compressed: reading it is cheap, and emulated processors are slow.
func writeInitrd(path string, k Kernel, program, keys string) (err error) {
	early, err := filepath.Glob(filepath.Join(k.dir, "early", "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(early)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c := cpio{w: f}
	c.add("dev", modeDir|0o755, nil)
	c.add("mnt", modeDir|0o755, nil)
	c.add(guest.EarlyDir[1:], modeDir|0o755, nil)
	c.addFile("init", 0o755, program)
	for _, m := range early {
		c.addFile(guest.EarlyDir[1:]+"/"+filepath.Base(m), 0o644, m)
	}
	if keys != "" {
		c.addFile(guest.KeysFile[1:], 0o600, keys)
	}
	return c.close()
}

// cpio writes an archive in the "newc" form, which the kernel reads:
// Documentation/driver-api/early-userspace/buffer-format.rst.
type cpio struct {
	w   io.Writer
	ino int
	err error
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

func (c *cpio) addFile(name string, perm int, path string) {
	content, err := os.ReadFile(path)
	if err != nil && c.err == nil {
		c.err = err
	}
	c.add(name, modeFile|perm, content)
}

func (c *cpio) add(name string, mode int, content []byte) {
	c.ino++
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
	c.put(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name))
	c.put(content)
}

// put writes b and as many zeros as make its length a multiple of four: the
// lengths of header and content are multiples each.
func (c *cpio) put(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(append(b, make([]byte, -len(b)&3)...))
	}
}

func (c *cpio) close() error {
	c.add("TRAILER!!!", 0, nil)
	return c.err
}
