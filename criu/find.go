package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
)

const (
	// PathVariable names the environment variable that says which CRIU to use.
	PathVariable = "MIGRATE_CRIU"
	// PrivatePath is where the set-up script puts a CRIU that works on kernels
	// on which the distribution's does not.
	PrivatePath = "/usr/local/lib/migrate/criu/criu"

	setupAdvice = "run scripts/setup, which gets a CRIU that works on this kernel"

	// probeTimeout bounds each question to a CRIU at work on nothing else.
	// Without a cache in /run it takes 50 to 100 ms to look at the kernel.
	probeTimeout = 30 * time.Second
)

// Tool is a CRIU binary whose version is known.
type Tool struct {
	Path    string
	Version Version

	known *known // what it has answered, nil if that is not kept
}

// Find locates a CRIU that works: the one at path; if that is empty, the one
// that [PathVariable] names; if that is empty too, the first good one of
// "criu" on PATH and [PrivatePath]. It runs "criu check". The error is an
// [*Error] that says what is wrong with each candidate.
func Find(ctx context.Context, path string) (Tool, error) {
	candidates := candidatesFor(path)
	var errs []error
	for _, c := range candidates {
		t, err := probe(ctx, c)
		if err == nil {
			return t, nil
		}
		errs = append(errs, err)
	}
	return Tool{}, unusable(candidates, errs)
}

// unusable says what is wrong with the candidates. That one is not there is
// only worth a word when none is.
func unusable(candidates []string, errs []error) *Error {
	var there []error
	for _, err := range errs {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, exec.ErrNotFound) {
			there = append(there, err)
		}
	}
	if len(there) == 0 {
		return &Error{Op: "find", What: "criu is not installed", Cause: "there is no " + strings.Join(candidates, " and no "), Advice: setupAdvice}
	}
	e := &Error{Op: "find", What: "no usable criu", Cause: oneLine(there), Advice: setupAdvice}
	if first, ok := errors.AsType[*Error](there[0]); ok {
		e.Log, e.Errno = first.Log, first.Errno
	}
	return e
}

func oneLine(errs []error) string {
	return strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; ")
}

// probe looks at one candidate, a path or a name to be looked up on PATH.
func probe(ctx context.Context, name string) (Tool, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return Tool{}, err
	}
	t := Tool{Path: path}
	if t.Version, err = t.askVersion(ctx); err != nil {
		return Tool{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := t.supported(); err != nil {
		return Tool{}, err
	}
	return t, t.Check(ctx)
}

// supported refuses a CRIU that is too old.
func (t Tool) supported() error {
	if t.Version >= MinVersion {
		return nil
	}
	return &Error{Op: "find", What: fmt.Sprintf("%s is too old", t.Path),
		Cause: fmt.Sprintf("it is version %v, and %v or newer is needed", t.Version, MinVersion), Advice: setupAdvice}
}

func (t Tool) askVersion(ctx context.Context) (Version, error) {
	resp, err := t.ask(ctx, "version", &rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()}, "")
	if err != nil {
		return 0, err
	}
	v := resp.GetVersion()
	if v == nil {
		return 0, errors.New("criu did not tell its version")
	}
	return Version(v.GetMajorNumber()*10000 + v.GetMinorNumber()*100 + v.GetSublevel()), nil
}

// Check runs "criu check", which tries what a dump and a restore need of this
// kernel and this user. The error is an [*Error].
func (t Tool) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out := &tail{}
	cmd := exec.CommandContext(ctx, t.Path, "check", "-v1")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = pipeGrace
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("criu check: %w", context.Cause(ctx))
	}
	e := newError("check", 0, out.lines(), err.Error())
	e.What = fmt.Sprintf("%s %v fails \"criu check\"", t.Path, t.Version)
	e.Advice = cmp.Or(e.Advice, setupAdvice)
	return e
}

// ask sends one request that no hooks belong to, to a child of its own. log
// is the path of the log file that the request names, if it does.
func (t Tool) ask(ctx context.Context, op string, req *rpc.CriuReq, log string) (*rpc.CriuResp, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := t.Start(ctx, ChildOptions{})
	if err != nil {
		return nil, err
	}
	resp, err := c.call(ctx, op, req, log, nil)
	return resp, errors.Join(err, c.Close())
}
