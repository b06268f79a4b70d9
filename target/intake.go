package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"migrate"
	"migrate/target/pagestore"
	"migrate/transport"
)

// An intake stores what arrives on page and file streams, while messages are
// read elsewhere. A stream that breaks the rules ends it.
type intake struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	store   *pagestore.Store
	session *transport.Session
	rounds  *rounds
	files   chan transport.StreamDigest
	trees   []*staging
	work    sync.WaitGroup

	storing sync.Mutex // holds the store, whatever a peer sends at once
	sealed  bool
}

func (r *receiver) startIntake(ctx context.Context, s *transport.Session) *intake {
	ctx, cancel := context.WithCancelCause(ctx)
	in := &intake{
		ctx: ctx, cancel: cancel, store: r.store, session: s, rounds: r.rounds,
		files: make(chan transport.StreamDigest, 1), trees: r.trees,
	}
	in.work.Go(in.accept)
	return in
}

func (in *intake) stop() {
	in.cancel(errors.New("the intake has ended"))
	in.work.Wait()
}

// accept takes one stream after the other: the source sends up to
// [migrate.MaxStreams] page streams a round, and the images beside the last.
// Each is read, and its batches decoded, beside the others.
func (in *intake) accept() {
	for {
		st, err := in.session.AcceptStream(in.ctx)
		if err != nil {
			return // the end of the session, which the reader of messages sees too
		}
		in.work.Go(func() {
			if err := in.take(st); err != nil {
				in.cancel(err)
			}
		})
	}
}

func (in *intake) take(st transport.Stream) error {
	switch st := st.(type) {
	case *transport.PageReader:
		return in.takePages(st)
	case *transport.FileReader:
		return in.takeFiles(st)
	case *transport.TreeReader:
		return in.takeTree(st)
	}
	return fmt.Errorf("unexpected %T", st)
}

// takePages stores the batches of one stream, each when it is its turn.
func (in *intake) takePages(r *transport.PageReader) error {
	var b transport.Batch
	for {
		err := r.Next(in.ctx, &b)
		if errors.Is(err, io.EOF) {
			return in.rounds.leave(b.Round, r.Digest())
		}
		if err != nil {
			return err
		}
		order, err := in.rounds.enter(in.ctx, b.Round)
		if err != nil {
			return err
		}
		if err := order.Take(in.ctx, &b, in.apply); err != nil {
			return err
		}
	}
}

func (in *intake) apply(b *transport.Batch) error {
	in.storing.Lock()
	defer in.storing.Unlock()
	if in.sealed {
		return fmt.Errorf("%w: pages come after the word to restore", transport.ErrProtocol)
	}
	if err := in.store.Apply(b); err != nil {
		return &storeError{err}
	}
	return nil
}

// seal says that the store is the caller's from now on.
func (in *intake) seal() {
	in.storing.Lock()
	defer in.storing.Unlock()
	in.sealed = true
}

func (in *intake) takeFiles(r *transport.FileReader) error {
	for {
		h, content, err := r.Next(in.ctx)
		if errors.Is(err, io.EOF) {
			return in.give(in.files, r.Digest())
		}
		if err != nil {
			return err
		}
		if err := writeImage(filepath.Join(in.store.Images(), h.Name), content); err != nil {
			return &storeError{err}
		}
	}
}

func writeImage(path string, content io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// storeError is what the store could not take.
type storeError struct{ err error }

func (e *storeError) Error() string { return "store: " + e.err.Error() }

func (e *storeError) Unwrap() error { return e.err }

// Failure tells a store that is full from pages that are no good.
func (e *storeError) Failure() migrate.Failure {
	switch {
	case errors.Is(e.err, syscall.ENOSPC):
		return migrate.Failure{What: "no space left in the target's store", Cause: e.err.Error(), Advice: "give the agent there a larger --store"}
	case errors.Is(e.err, pagestore.ErrFull):
		return migrate.Failure{What: "the workload has grown too much since preflight", Cause: e.err.Error(), Advice: "free memory there or give the agent a larger --store, then move again, or choose another target"}
	}
	return transport.Failure(e.err)
}

func (in *intake) give(to chan transport.StreamDigest, d transport.StreamDigest) error {
	select {
	case to <- d:
		return nil
	case <-in.ctx.Done():
		return context.Cause(in.ctx)
	}
}

// endImages waits for the stream of images and compares it with what the source
// says that it sent.
func (in *intake) endImages(want transport.StreamDigest) error {
	select {
	case got := <-in.files:
		if got != want {
			return fmt.Errorf("the images arrived as %+v and were sent as %+v", got, want)
		}
		return nil
	case <-in.ctx.Done():
		return context.Cause(in.ctx)
	}
}
