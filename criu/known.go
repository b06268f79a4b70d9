package criu

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"migrate/internal/atomicfile"
)

// knownName is the file in which answers of CRIU are kept.
const knownName = "criu.json"

// maxKnown bounds the file: one cpuinfo image and some numbers.
const maxKnown = 4 * maxCPUInfo

// known is what a CRIU has said of this machine. A start of CRIU costs up to a
// tenth of a second of processor time, and a migration would need half a dozen of them
// on each side for answers that are the same until the machine starts again.
type known struct {
	file string
	mu   sync.Mutex
	said answers
}

// answers are valid as long as all that Key names is the same.
type answers struct {
	Key      string    `json:"key"`
	Path     string    `json:"path"`
	Version  Version   `json:"version"`
	Features *Features `json:"features,omitempty"`
	CPU      []byte    `json:"cpu,omitempty"` // cpuinfo.img
}

// FindKnown is [Find], but believes what CRIU has answered before on this machine,
// which is kept in the directory dir: that a binary passes "criu check", its
// version, and, of the tool it returns, what [Tool.Features] and [Tool.DumpCPU] say.
// An answer is asked for again when a candidate's binary, the environment variable, the
// kernel, the CPU or the caller's capabilities have changed, and a no always.
// dir is made if need be; where it cannot be written to, nothing is kept.
func FindKnown(ctx context.Context, path, dir string) (Tool, error) {
	key, file := knownKey(candidatesFor(path)), filepath.Join(dir, knownName)
	if a, ok := readAnswers(file); ok && a.Key == key {
		return Tool{Path: a.Path, Version: a.Version, known: &known{file: file, said: a}}, nil
	}
	return FindAnew(ctx, path, dir)
}

// FindAnew is [Find], and keeps what CRIU answers for [FindKnown].
func FindAnew(ctx context.Context, path, dir string) (Tool, error) {
	key := knownKey(candidatesFor(path))
	t, err := Find(ctx, path)
	if err != nil {
		return t, err
	}
	t.known = &known{file: filepath.Join(dir, knownName), said: answers{Key: key, Path: t.Path, Version: t.Version}}
	t.known.update(func(*answers) {})
	return t, nil
}

// recall returns a copy of the answers; k may be nil.
func (k *known) recall() answers {
	if k == nil {
		return answers{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.said
}

// update adds an answer; k may be nil. That it cannot be kept costs the next one who
// asks a moment, and nothing else.
func (k *known) update(change func(*answers)) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.said)
	b, err := json.Marshal(k.said)
	if err == nil && os.MkdirAll(filepath.Dir(k.file), 0o700) == nil {
		_ = atomicfile.WriteFile(k.file, b, 0o600)
	}
}

// readAnswers believes a file only if none but the caller could have written it.
func readAnswers(file string) (a answers, ok bool) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return a, false
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 || st.Size > maxKnown {
		return a, false
	}
	err = json.NewDecoder(f).Decode(&a)
	return a, err == nil && a.Path != "" && a.Version >= MinVersion
}

func candidatesFor(path string) []string {
	if one := cmp.Or(path, os.Getenv(PathVariable)); one != "" {
		return []string{one}
	}
	return []string{"criu", PrivatePath}
}

// knownKey names all that answers depend on: the candidates' binaries, the kernel as
// it was started, the CPU, and what the caller may do.
func knownKey(candidates []string) string {
	h := sha256.New()
	for _, c := range candidates {
		fmt.Fprintln(h, c, identity(c))
	}
	for _, file := range []string{"/proc/sys/kernel/random/boot_id", "/proc/version"} {
		b, _ := os.ReadFile(file) // what cannot be read is the same each time
		h.Write(b)
	}
	fmt.Fprintln(h, os.Geteuid(), lineOf("/proc/self/status", "CapEff"))
	for _, line := range []string{"model name", "flags", "Features"} {
		fmt.Fprintln(h, lineOf("/proc/cpuinfo", line))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// identity is what changes when a binary is replaced.
func identity(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ""
	}
	return fmt.Sprint(path, " ", st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
}

// lineOf returns the first line of a file that begins so, or "".
func lineOf(file, begins string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, begins) {
			return line
		}
	}
	return ""
}
