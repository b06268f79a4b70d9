package transport

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// pipeline moves n batches as a source and a target do: two encoders, a writer
// in order, several streams, and a sequencer.
func pipeline(ctx context.Context, d, a *Session, ad *Adaptive, streams, n int) error {
	const pages = 64
	content := memory(8*pages, 11)
	g, ctx := errgroup.WithContext(ctx)
	type job struct {
		seq   uint64
		ready chan []byte
	}
	work, order := make(chan job, 4), make(chan job, 8)
	g.Go(func() error {
		defer close(work)
		defer close(order)
		for i := range uint64(n) {
			j := job{i, make(chan []byte, 1)}
			for _, c := range []chan job{order, work} {
				select {
				case c <- j:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		return nil
	})
	for range 2 {
		g.Go(func() error {
			for j := range work {
				b := Batch{Round: 1, Seq: j.seq, Data: content[j.seq%8*pages*PageSize:][:pages*PageSize],
					Pieces: []Piece{{Kind: PieceData, Address: j.seq * pages * PageSize, Pages: pages}}}
				f, err := ad.Encode(nil, &b)
				if err != nil {
					return err
				}
				j.ready <- f
			}
			return nil
		})
	}
	g.Go(func() error {
		p, err := d.OpenPageStreams(ctx, streams)
		if err != nil {
			return err
		}
		for j := range order {
			frame := <-j.ready
			begun := time.Now()
			if err := p.Write(ctx, frame); err != nil {
				return err
			}
			ad.Blocked(time.Since(begun))
		}
		_, err = p.End(ctx)
		return err
	})
	var q Sequencer
	g.Go(func() error {
		_, err := receiveRound(ctx, a, &q, streams, func(*Batch) error { return nil }, func(int) time.Duration { return 0 })
		return err
	})
	return g.Wait()
}

func BenchmarkPipeline(b *testing.B) {
	for _, c := range [][2]Codec{{CodecNone, CodecNone}, {CodecS2, CodecS2}, {CodecZstd1, CodecZstd1}, {CodecNone, CodecZstd3}} {
		for _, streams := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%v-%v/streams=%d", c[0], c[1], streams), func(b *testing.B) {
				d, a := pair(b, nil)
				ad := NewAdaptive(c[0], c[1])
				b.SetBytes(256 << 20)
				u := readUsage()
				for b.Loop() {
					if err := pipeline(b.Context(), d, a, ad, streams, 1024); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric((readUsage().used-u.used).Seconds()/float64(b.N)*4, "cpu-s/GiB")
				b.ReportMetric(float64(ad.Codec()), "codec")
			})
		}
	}
}
