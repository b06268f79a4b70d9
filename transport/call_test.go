package transport

import (
	"errors"
	"testing"
	"time"

	"migrate"
)

func TestCall(t *testing.T) {
	reason := migrate.Failure{What: "no", Cause: "because", Advice: "do not ask"}
	for _, c := range []struct {
		name   string
		answer Message
		check  func(State, error) bool
	}{
		{"answer", State{ID: "00000000000000aa", Known: true}, func(s State, err error) bool { return err == nil && s.Known }},
		{"abort", Abort{Failure: reason}, func(_ State, err error) bool {
			e, ok := errors.AsType[*AbortError](err)
			return ok && e.Failure() == reason
		}},
		{"another message", Prepared{}, func(_ State, err error) bool {
			return err != nil && err.Error() == "the peer sent transport.Prepared where transport.State was due"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := within(t, 10*time.Second)
			here, there := pair(t, nil)
			answered := make(chan error, 1)
			go func() {
				_, err := there.Receive(ctx)
				answered <- errors.Join(err, there.Send(ctx, c.answer))
			}()
			if s, err := Call[State](ctx, here, Ask{ID: "00000000000000aa"}); !c.check(s, err) {
				t.Errorf("Call() = %+v, %v", s, err)
			}
			if err := <-answered; err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestOldPeer: what a peer's version lacks is not sent to it, and may not come
// from it; the session goes on with what both speak.
func TestOldPeer(t *testing.T) {
	ctx := within(t, 10*time.Second)
	here, old := pair(t, func(_, a *Config) { a.MaxVersion = 1 })
	err := here.Send(ctx, Describe{})
	f, own := migrate.FailureOf(err)
	if !errors.Is(err, ErrVersion) || !own || f.Advice == "" {
		t.Errorf("Send(Describe) to version 1 = %v, %+v", err, f)
	}
	if err := here.Send(ctx, Status{}); err != nil {
		t.Errorf("Send(Status) after that = %v", err)
	}
	if m, err := old.Receive(ctx); err != nil || m.FrameType() != FrameStatus {
		t.Errorf("Receive = %v, %v, want Status", m, err)
	}
	if _, err := decodeMessage(1, FrameDescribe, []byte("{}")); !errors.Is(err, ErrProtocol) {
		t.Errorf("Describe in a session of version 1 = %v, want a protocol error", err)
	}
}
