package target

import (
	"migrate"
	"migrate/transport"
)

// Request is something that a peer asks for and that changes something.
type Request struct {
	Peer     string
	What     string     // "receive", "move", "cordon", "uncordon", "change", "stop" or "verdict"
	Workload string     // KIND:ID
	ID       migrate.ID // of the migration or the drain
	To       string     // the target of a move
	Refused  error      // nil if it is done
}

// permit tells whether a peer may ask for what a message asks.
func (a *Agent) permit(peer string, m transport.Message) error {
	switch m.(type) {
	case transport.Offer, transport.Look:
		if !allowed(a.cfg.Allow, peer) {
			return &forbidden{peer, "--allow"}
		}
	case transport.Drive, transport.Cordon, transport.Change, transport.Stop:
		if !allowed(a.cfg.AllowOperator, peer) {
			return &forbidden{peer, "--allow-operator"}
		}
	}
	return nil
}

// requested tells of what a peer asks for.
func (a *Agent) requested(peer string, m transport.Message, refused error) {
	if a.cfg.Requested == nil {
		return
	}
	r := requestOf(m)
	if r.What == "" {
		return
	}
	r.Peer, r.Refused = peer, refused
	a.cfg.Requested(r)
}

// requestOf returns what a message asks for; nothing if that changes nothing.
func requestOf(m transport.Message) Request {
	switch m := m.(type) {
	case transport.Offer:
		if !m.CheckOnly {
			return Request{What: "receive", Workload: m.Workload.Kind + ":" + m.Workload.Name, ID: m.ID}
		}
	case transport.Drive:
		if !m.CheckOnly {
			return Request{What: "move", Workload: m.Source, ID: m.ID, To: m.Target}
		}
	case transport.Cordon:
		if m.Off {
			return Request{What: "uncordon", ID: m.Drain}
		}
		return Request{What: "cordon", ID: m.Drain}
	case transport.Change:
		return Request{What: "change", ID: m.ID}
	case transport.Stop:
		return Request{What: "stop", Workload: m.Ref}
	case transport.Verdict:
		return Request{What: "verdict", ID: m.ID}
	}
	return Request{}
}
