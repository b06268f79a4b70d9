package criu

import (
	"context"
	"errors"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// Features are what CRIU says it can do on this kernel.
type Features struct {
	MemTrack   bool // soft-dirty memory tracking
	LazyPages  bool // restore with userfaultfd
	PidfdStore bool
}

// Features asks CRIU. As a side effect CRIU fills its cache of kernel facts
// in /run, where that is a tmpfs, and the next dump or restore starts faster.
func (t Tool) Features(ctx context.Context) (Features, error) {
	if f := t.known.recall().Features; f != nil {
		return *f, nil
	}
	f, err := t.askFeatures(ctx)
	if err == nil {
		t.known.update(func(a *answers) { a.Features = &f })
	}
	return f, err
}

func (t Tool) askFeatures(ctx context.Context) (Features, error) {
	want := &rpc.CriuFeatures{MemTrack: proto.Bool(true), LazyPages: proto.Bool(true), PidfdStore: proto.Bool(true)}
	resp, err := t.ask(ctx, "features", &rpc.CriuReq{Type: rpc.CriuReqType_FEATURE_CHECK.Enum(), Features: want}, "")
	if err != nil {
		return Features{}, err
	}
	got := resp.GetFeatures()
	if got == nil {
		return Features{}, errors.New("criu features: no answer to the question")
	}
	return Features{MemTrack: got.GetMemTrack(), LazyPages: got.GetLazyPages(), PidfdStore: got.GetPidfdStore()}, nil
}
