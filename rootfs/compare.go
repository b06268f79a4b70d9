package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"migrate"
	"migrate/internal/buildid"
)

// Codes of what [Compare] finds.
const (
	CodeMissing   = "file-missing"
	CodeDifferent = "file-different"
)

// Compare compares files that a workload has open or mapped on the source with
// those of this host, and returns what a restore would trip over: a file
// that is missing or of another kind, of another size (unless it is written to, and
// so grows until the freeze), with other permissions (CRIU compares them all), or,
// if it is mapped, another build. Links are followed, as open(2) does.
//
// The list may come from a peer: it is only compared with, and no file is
// changed or opened for writing.
func Compare(files []migrate.File) []migrate.Finding {
	var list []migrate.Finding
	for _, want := range files {
		have, err := Describe(want.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			list = append(list, migrate.Finding{
				Code:   CodeMissing,
				What:   fmt.Sprintf("%s is not on the target", want.Path),
				Advice: "install or copy it there",
			})
		case err != nil:
			list = append(list, migrate.Finding{
				Code:   CodeDifferent,
				What:   fmt.Sprintf("%s cannot be compared on the target: %v", want.Path, err),
				Advice: "make it readable, the same as on the source",
			})
		default:
			if why := difference(want, have); why != "" {
				list = append(list, migrate.Finding{
					Code:   CodeDifferent,
					What:   fmt.Sprintf("%s is different on the target: %s", want.Path, why),
					Advice: "make both hosts have the same file, the same version of its package for one",
				})
			}
		}
	}
	return list
}

// difference says in what way have cannot stand for want, or "".
func difference(want, have migrate.File) string {
	const kind, permissions = syscall.S_IFMT, 0o7777
	switch {
	case have.Mode&kind != want.Mode&kind:
		return fmt.Sprintf("it is a %s there, a %s here", kindOf(want.Mode), kindOf(have.Mode))
	case have.Mode&permissions != want.Mode&permissions:
		return fmt.Sprintf("mode %04o there, %04o here", want.Mode&permissions, have.Mode&permissions)
	case want.Mode&kind != syscall.S_IFREG:
		return ""
	case have.Size != want.Size && !want.Written:
		return fmt.Sprintf("%d bytes there, %d here", want.Size, have.Size)
	case want.Mapped && have.BuildID != want.BuildID:
		return fmt.Sprintf("build %s there, %s here", orNone(want.BuildID), orNone(have.BuildID))
	}
	return ""
}

func orNone(id string) string {
	if id == "" {
		return "without an ID"
	}
	return id
}

func kindOf(mode uint32) string {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return "regular file"
	case syscall.S_IFDIR:
		return "directory"
	case syscall.S_IFIFO:
		return "named pipe"
	case syscall.S_IFSOCK:
		return "socket"
	case syscall.S_IFCHR, syscall.S_IFBLK:
		return "device"
	}
	return "file of another kind"
}

// Describe returns what this host has at an absolute path. The size is that of
// a regular file, and 0 of anything else; the build ID is that of an ELF file.
// Nothing but a regular file is opened.
func Describe(path string) (migrate.File, error) {
	if !filepath.IsAbs(path) {
		return migrate.File{}, fmt.Errorf("describing %q: not an absolute path", path)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return migrate.File{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	f := migrate.File{Path: path, Mode: st.Mode}
	if st.Mode&syscall.S_IFMT == syscall.S_IFREG {
		f.Size = st.Size
		f.BuildID = buildid.Of(path)
	}
	return f, nil
}
