package hosts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"migrate"
	"migrate/criu"
	"migrate/internal/hostinfo"
	"migrate/transport"
	"migrate/transport/pki"
)

// hostilities are what a peer with a good certificate could do to an agent.
// Each returns once the agent must have had enough; want is in its answer.
var hostilities = map[string]struct {
	do   func(context.Context, *peer) error
	want string
}{
	"unknown message":       {send(odd{0x6f, "{}"}), "protocol error"},
	"not an object":         {send(odd{transport.FrameOffer, "[1]"}), "protocol error"},
	"wrong types":           {send(odd{transport.FrameOffer, `{"id":1}`}), "protocol error"},
	"prepare first":         {send(transport.Prepare{ID: migrate.NewID()}), "unexpected"},
	"restore first":         {send(transport.Restore{}), "unexpected"},
	"commit first":          {send(transport.Commit{}), "unexpected"},
	"drive, not allowed":    {send(transport.Drive{Source: "process:1", Target: "B"}), "system itself"},
	"traversing ID":         {offered(func(o *transport.Offer) { o.ID = "../../x" }), "protocol error"},
	"traversing name":       {offered(func(o *transport.Offer) { o.Workload.Name = "../../x" }), "name"},
	"unknown option":        {offered(func(o *transport.Offer) { o.Options.TCP = "steal" }), "steal"},
	"no number of an image": {offered(func(o *transport.Offer) { o.CPUInfo = []byte("no image") }), "CPU"},
	"init elsewhere": {prepared(func(o *transport.Offer) {
		o.Init, o.Workload.Init = []byte("#!"), "/etc/passwd"
	}, nothing), "init"},
	"commit unasked":       {prepared(nil, send(transport.Commit{})), "unexpected"},
	"second offer":         {prepared(nil, send(transport.Offer{ID: migrate.NewID()})), "unexpected"},
	"gone after prepare":   {prepared(nil, hangUp), "closed"},
	"gone in the middle":   {prepared(nil, halfARound), "closed"},
	"wrong digest":         {prepared(nil, wrongDigest), "arrived as"},
	"too many streams":     {prepared(nil, send(transport.RoundEnd{Round: 1, Streams: make([]transport.StreamDigest, migrate.MaxStreams+1)})), "on 5 streams"},
	"falling pages":        {prepared(nil, pages(1, data(0x20000), data(0x10000))), "after"},
	"pages twice":          {prepared(nil, pages(1, data(0x10000), data(0x10000))), "after"},
	"more than reserved":   {prepared(nil, pages(0, zeros(0, 1<<31))), "more pages than were reserved"},
	"page that is not":     {prepared(nil, pages(1, transport.Piece{Kind: transport.PieceHave, Address: 0x10000, Pages: 1})), "is said to be here"},
	"broken images":        {prepared(nil, brokenImages), "inventory"},
	"image of ours":        {prepared(nil, imagesNamed("parent", "pages-1.img")), "exists"},
	"restore without them": {prepared(nil, emptyRestore), "criu restore"},
}

// A peer is a session with B's agent that does not play by the rules.
type peer struct {
	*transport.Session
	offer transport.Offer
}

// beHostile does one of hostilities and prints what the agent said last.
func beHostile(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	id, err := pki.Load("/etc/migrate/pki")
	if err != nil {
		return err
	}
	s, err := transport.Dial(ctx, "B:7420", "B", transport.Config{Identity: id})
	if err != nil {
		return err
	}
	offer, err := fairOffer(ctx)
	if err != nil {
		return err
	}
	if err := hostilities[name].do(ctx, &peer{s, offer}); err != nil {
		fmt.Println("closed while sending:", err)
	}
	fmt.Println(lastWord(ctx, s))
	s.Close(transport.CodeNone, "")
	os.Exit(0)
	return nil
}

// lastWord reads until the agent gives up.
func lastWord(ctx context.Context, s *transport.Session) string {
	for {
		switch m, err := s.Receive(ctx); m := m.(type) {
		case transport.Abort:
			return "abort: " + m.Failure.What + " " + m.Failure.Cause
		case transport.Answer:
			if len(m.Check.Blockers) > 0 {
				return fmt.Sprintf("blocked: %s", m.Check.Blockers)
			}
		case transport.Progress:
			if r := m.Event.Report; r != nil {
				return fmt.Sprintf("reported: %s", r.Blockers)
			}
		case nil:
			return "closed: " + err.Error()
		case transport.Held:
			return "held!"
		}
	}
}

// fairOffer has nothing wrong with it.
func fairOffer(ctx context.Context) (o transport.Offer, err error) {
	tool, err := criu.Find(ctx, "")
	if err != nil {
		return o, err
	}
	id := migrate.NewID()
	o = transport.Offer{ID: id, Options: migrate.Options{}.WithDefaults()}
	o.Workload = migrate.Workload{
		Kind: "process", Name: "hostile-" + string(id), RootPID: 55555, MemoryBytes: 1 << 20,
		Tasks: []migrate.Task{{PID: 55555, VPID: 55555, Session: 55555, Group: 55555, Threads: []int{55555}}},
	}
	if o.Host, err = hostinfo.Describe(ctx, tool, nil, ""); err != nil {
		return o, err
	}
	o.CPUInfo, err = tool.DumpCPU(ctx)
	return o, err
}

// odd is a message that there is not.
type odd struct {
	kind transport.FrameType
	text string
}

func (o odd) FrameType() transport.FrameType { return o.kind }

func (o odd) MarshalJSON() ([]byte, error) { return json.RawMessage(o.text), nil }

type deed = func(context.Context, *peer) error

func nothing(context.Context, *peer) error { return nil }

func send(m transport.Message) deed {
	return func(ctx context.Context, p *peer) error { return p.Send(ctx, m) }
}

func hangUp(_ context.Context, p *peer) error { return p.Close(transport.CodeInternal, "") }

func offered(change func(*transport.Offer)) deed {
	return func(ctx context.Context, p *peer) error {
		change(&p.offer)
		return p.Send(ctx, p.offer)
	}
}

// prepared is hostile only after the target has made ready.
func prepared(change func(*transport.Offer), then deed) deed {
	return func(ctx context.Context, p *peer) error {
		if change != nil {
			change(&p.offer)
		}
		if err := errors.Join(p.Send(ctx, p.offer), p.Send(ctx, transport.Prepare{ID: p.offer.ID})); err != nil {
			return err
		}
		if m, err := p.Receive(ctx); err != nil || len(m.(transport.Answer).Check.Blockers) > 0 {
			return fmt.Errorf("answer %+v, %w", m, err)
		}
		m, err := p.Receive(ctx)
		if err != nil {
			return err
		}
		if a, ok := m.(transport.Abort); ok {
			fmt.Println("abort:", a.Failure.What)
			return nil
		}
		return then(ctx, p)
	}
}

func data(address uint64) transport.Piece {
	return transport.Piece{Kind: transport.PieceData, Address: address, Pages: 1}
}

func zeros(address uint64, pages uint32) transport.Piece {
	return transport.Piece{Kind: transport.PieceZero, Address: address, Pages: pages}
}

// stream sends pieces of one image, each in a batch of its own.
func stream(ctx context.Context, p *peer, flags uint8, pieces []transport.Piece) (*transport.PageWriter, error) {
	w, err := p.OpenPages(ctx)
	if err != nil {
		return nil, err
	}
	for i, piece := range pieces {
		piece.ImageType, piece.Image, piece.Flags = 1, 1, flags
		b := &transport.Batch{Round: 1, Seq: uint64(i), Pieces: []transport.Piece{piece}}
		if piece.Kind == transport.PieceData {
			b.Data = make([]byte, transport.PageSize*int(piece.Pages))
		}
		frame, err := transport.EncodeBatch(nil, b, transport.CodecNone)
		if err != nil {
			return nil, err
		}
		if err := w.WriteEncoded(ctx, frame); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// pages sends a whole round; with flags it is the final one.
func pages(flags uint8, pieces ...transport.Piece) deed {
	return func(ctx context.Context, p *peer) error {
		w, err := stream(ctx, p, flags, pieces)
		if err != nil {
			return err
		}
		d, err := w.End(ctx)
		if err != nil {
			return err
		}
		return p.Send(ctx, transport.RoundEnd{Round: 1, Streams: []transport.StreamDigest{d}, Pages: d.Pages, Final: flags != 0})
	}
}

func halfARound(ctx context.Context, p *peer) error {
	if _, err := stream(ctx, p, 0, []transport.Piece{data(0x10000)}); err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond)
	return hangUp(ctx, p)
}

func wrongDigest(ctx context.Context, p *peer) error {
	w, err := stream(ctx, p, 0, []transport.Piece{data(0x10000)})
	if err != nil {
		return err
	}
	d, err := w.End(ctx)
	d.XXH3 = strings.Repeat("0", len(d.XXH3))
	return errors.Join(err, p.Send(ctx, transport.RoundEnd{Round: 1, Streams: []transport.StreamDigest{d}, Pages: d.Pages}))
}

func brokenImages(ctx context.Context, p *peer) error {
	return imagesNamed("inventory.img", "core-55555.img", "pstree.img")(ctx, p)
}

func emptyRestore(ctx context.Context, p *peer) error { return imagesNamed()(ctx, p) }

// imagesNamed sends a page, then files of rubbish, and asks to restore.
func imagesNamed(names ...string) deed {
	return func(ctx context.Context, p *peer) error {
		if err := pages(1, data(0x10000))(ctx, p); err != nil {
			return err
		}
		w, err := p.OpenFiles(ctx)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := w.Add(ctx, n, 7, 0o600, strings.NewReader("rubbish")); err != nil {
				return err
			}
		}
		d, err := w.End(ctx)
		if err != nil {
			return err
		}
		return p.Send(ctx, transport.Restore{Images: d, Workload: p.offer.Workload})
	}
}
