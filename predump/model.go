package predump

import (
	"math"
	"time"

	"migrate"
)

// A model is what the rounds so far tell about the workload and the link.
//
// A round takes read + wire time of what it sends. What round n finds changed was
// written while round n-1 ran, which makes each round a sample of the curve
// "pages changed after t of running". Hot memory bends that curve: the same pages
// are written again. The model takes a power law between the newest samples.
type model struct {
	known bool    // there are two rounds
	send  float64 // ns that a changed page takes on the wire, as the last round's did
	read  float64 // ns that a round takes with nothing to send
	dirty float64 // pages changed since the last round looked

	pages float64 // of the workload
	found float64 // pages that the last round found changed,
	since float64 // in so many ns of running
	bend  float64 // exponent: 1 is ever new pages, 0 always the same ones
	share float64 // of its processor time that the workload has now
}

func newModel(s State) model {
	n := len(s.Rounds)
	if n == 0 {
		return model{share: 1}
	}
	last := s.Rounds[n-1]
	m := model{known: n > 1, share: share(s.Throttle), found: float64(last.Dirty())}
	m.send = perPage(last) * perByte(s.Rounds, s.Bandwidth)
	m.read = max(0, float64(last.Duration)-m.send*m.found)
	m.pages = max(float64(s.Pages), m.found)
	m.dirty = m.found
	if m.known {
		m.since = running(s.Rounds[n-2])
		m.bend = bend(s.Rounds)
		m.dirty = m.changed(running(last))
	}
	return m
}

// rest returns how long it takes to send what a freeze now would have to.
func (m model) rest() time.Duration { return span(m.send * m.dirty) }

// length returns how long another round takes.
func (m model) length() time.Duration { return span(m.read + m.send*m.dirty) }

// span keeps ns so small that a few of them can be added.
func span(ns float64) time.Duration { return time.Duration(min(ns, math.MaxInt64/1000)) }

// changed returns how many pages are changed after t ns of running.
func (m model) changed(t float64) float64 {
	if m.found == 0 || m.since <= 0 {
		return m.found
	}
	return min(m.pages, m.found*math.Pow(t/m.since, m.bend))
}

// pays reports whether another round is expected to shorten the freeze, at a
// price in proportion.
func (m model) pays() bool {
	price := m.length()
	gain := m.rest() - span(m.send*m.changed(float64(price)*m.share))
	return gain >= minGain && price/dearness <= gain
}

// running returns how long the workload would have taken, unslowed, for what it
// did in a round.
func running(r migrate.Round) float64 {
	return max(1, float64(r.Duration)*share(r.Throttle))
}

func share(throttle int) float64 { return 1 - float64(throttle)/100 }

// perPage returns the bytes on the wire for each page that a round had to tell of.
func perPage(r migrate.Round) float64 {
	if r.Dirty() == 0 || r.Transferred == 0 {
		return PageSize
	}
	return float64(r.Transferred) / float64(r.Dirty())
}

// perByte returns the ns that a byte on the wire takes: how much longer a round
// took than another one that sent clearly less, as both took the same time to
// read. Until there are two such rounds the byte is charged with the reading. No
// round's own length is exceeded, and no cap that holds now.
func perByte(rounds []migrate.Round, bandwidth int64) float64 {
	last := rounds[len(rounds)-1]
	ns := math.Inf(1)
	for _, r := range rounds {
		if wire(r) > 0 {
			ns = min(ns, float64(r.Duration)/wire(r))
		}
	}
	if math.IsInf(ns, 1) {
		return 0 // nothing was ever sent
	}
	for i := len(rounds) - 2; i >= 0; i-- {
		long, bytes := float64(rounds[i].Duration-last.Duration), wire(rounds[i])-wire(last)
		if math.Abs(bytes) < min(wire(rounds[i]), wire(last)) {
			continue // not clearly less
		}
		if long/bytes > 0 {
			ns = min(ns, long/bytes)
		} else if wire(last) > 0 {
			ns = float64(last.Duration) / wire(last) // the link has changed
		}
		break
	}
	if bandwidth > 0 {
		ns = max(ns, 1e9/float64(bandwidth))
	}
	return ns
}

// wire returns the bytes that a round sent.
func wire(r migrate.Round) float64 { return perPage(r) * float64(r.Dirty()) }

// bend returns the exponent between the newest sample of the curve and the
// newest before it that is of a clearly different length. Without such a one
// it is the middle between ever new pages and always the same ones.
func bend(rounds []migrate.Round) float64 {
	const unknown, different = 0.5, 1.25
	n := len(rounds)
	t, found := running(rounds[n-2]), float64(rounds[n-1].Dirty())
	for i := n - 2; i > 0; i-- {
		u, then := running(rounds[i-1]), float64(rounds[i].Dirty())
		if max(t/u, u/t) < different {
			continue
		}
		if found == 0 || then == 0 {
			return unknown
		}
		return min(1, max(0, math.Log(then/found)/math.Log(u/t)))
	}
	return unknown
}
