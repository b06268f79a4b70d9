package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cpuinfo"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

const (
	cpuinfoName = "cpuinfo.img"
	cpuinfoLog  = "cpuinfo.log"
	maxCPUInfo  = 64 << 10 // one entry of about 200 bytes per CPU model
)

// DumpCPU returns the content of CRIU's cpuinfo.img for this machine, to be
// given to [Tool.CheckCPU] on another. It is not to be changed.
func (t Tool) DumpCPU(ctx context.Context) ([]byte, error) {
	if img := t.known.recall().CPU; img != nil {
		return img, nil
	}
	img, err := t.askCPUImage(ctx)
	if err == nil {
		t.known.update(func(a *answers) { a.CPU = img })
	}
	return img, err
}

func (t Tool) askCPUImage(ctx context.Context) (img []byte, err error) {
	err = t.inScratch(func(dir string) error {
		if err := t.askCPU(ctx, rpc.CriuReqType_CPUINFO_DUMP, dir); err != nil {
			return err
		}
		img, err = readBounded(filepath.Join(dir, cpuinfoName), maxCPUInfo)
		return err
	})
	return img, err
}

// CheckCPU tells whether code that ran on the machine that img is from can go
// on here. If not, the error is an [*Error] that names what this CPU lacks.
// img may come from a peer.
func (t Tool) CheckCPU(ctx context.Context, img []byte) error {
	source, err := parseCPUInfo(img)
	if err != nil {
		return err
	}
	if here, err := t.DumpCPU(ctx); err == nil && bytes.Equal(here, img) {
		return nil
	}
	err = t.inScratch(func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, cpuinfoName), img, 0o600); err != nil {
			return fmt.Errorf("checking the cpu: %w", err)
		}
		return t.askCPU(ctx, rpc.CriuReqType_CPUINFO_CHECK, dir)
	})
	if e, ok := errors.AsType[*Error](err); ok {
		e.What = "this machine's CPU cannot run the workload"
		e.nameMissing(t.missing(ctx, source))
	}
	return err
}

// missing names what this CPU lacks. CRIU has already said no, so that the
// names cannot be had is no error.
func (t Tool) missing(ctx context.Context, source *cpuinfo.CpuinfoEntry) []string {
	img, err := t.DumpCPU(ctx)
	if err != nil {
		return nil
	}
	here, err := parseCPUInfo(img)
	if err != nil {
		return nil
	}
	return missingInstructions(source, here)
}

func parseCPUInfo(img []byte) (*cpuinfo.CpuinfoEntry, error) {
	if len(img) > maxCPUInfo {
		return nil, fmt.Errorf("cpuinfo image: %d bytes, at most %d expected", len(img), maxCPUInfo)
	}
	body, err := openImage(img, cpuinfoMagic)
	if err != nil {
		return nil, fmt.Errorf("cpuinfo image: %w", err)
	}
	e := &cpuinfo.CpuinfoEntry{}
	msg, err := onlyMessage(body)
	if err == nil {
		err = proto.Unmarshal(msg, e)
	}
	if err != nil {
		return nil, fmt.Errorf("cpuinfo image: %w", err)
	}
	return e, nil
}

func (t Tool) askCPU(ctx context.Context, kind rpc.CriuReqType, dir string) error {
	dirs, _, done, err := openDirectories(dir, "")
	if err != nil {
		return fmt.Errorf("criu cpuinfo: %w", err)
	}
	defer done()
	_, err = t.ask(ctx, "cpuinfo", cpuRequest(kind, dirs), filepath.Join(dir, cpuinfoLog))
	return err
}

func cpuRequest(kind rpc.CriuReqType, d directories) *rpc.CriuReq {
	return &rpc.CriuReq{Type: kind.Enum(), Opts: &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(int32(d.images)),
		WorkDirFd:   proto.Int32(int32(d.work)),
		LogLevel:    proto.Int32(logLevel),
		LogFile:     proto.String(cpuinfoLog),
	}}
}

// inScratch runs f with a directory that is removed afterwards.
func (t Tool) inScratch(f func(dir string) error) error {
	dir, err := os.MkdirTemp("", "migrate-criu-")
	if err != nil {
		return fmt.Errorf("criu cpuinfo: %w", err)
	}
	return errors.Join(f(dir), os.RemoveAll(dir))
}
