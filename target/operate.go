package target

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"migrate"
	"migrate/internal/cordon"
	"migrate/internal/hostinfo"
	"migrate/transport"
)

// drains are the reservations of drains: memory that is kept for moves which
// have not begun. They are in memory only, as a drain renews what it still
// needs well before it expires.
type drains map[migrate.ID]reservedFor

type reservedFor struct {
	bytes uint64
	until time.Time
}

// promised returns the bytes kept for drains other than one, and forgets what
// has expired.
func (d drains) promised(but migrate.ID, now time.Time) (sum uint64) {
	for id, r := range d {
		switch {
		case now.After(r.until):
			delete(d, id)
		case id != but:
			sum += r.bytes
		}
	}
	return sum
}

// Limits of what a peer may have reserved.
const (
	maxReserveTTL = 10 * time.Minute
	maxDrains     = 1000
)

// reserve keeps room for a drain in place of what it had, if there is room
// beside what is promised to others.
func (a *Agent) reserve(m transport.Reserve, here migrate.Host) transport.Reserved {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	others := a.reserved - a.taken(m.Drain) + a.drains.promised(m.Drain, now)
	free := here.MemoryAvailable - min(here.MemoryAvailable, others)
	switch {
	case m.Bytes == 0:
		delete(a.drains, m.Drain)
	case m.TTL <= 0 || m.TTL > maxReserveTTL:
		return transport.Reserved{Free: free, Failure: &migrate.Failure{What: fmt.Sprintf("a reservation for %v: want up to %v", m.TTL, maxReserveTTL)}}
	case m.Bytes > free:
		return transport.Reserved{Free: free, Failure: &migrate.Failure{
			What:   fmt.Sprintf("%s cannot keep %d MiB: it has %d MiB of memory free, %d MiB of it promised to others", here.Name, m.Bytes>>20, here.MemoryAvailable>>20, others>>20),
			Advice: "free memory there, wait until other drains are over, or choose more targets",
		}}
	case len(a.drains) >= maxDrains:
		return transport.Reserved{Free: free, Failure: &migrate.Failure{What: fmt.Sprintf("%s keeps room for %d drains already", here.Name, maxDrains)}}
	default:
		a.drains[m.Drain] = reservedFor{m.Bytes, now.Add(m.TTL)}
	}
	return transport.Reserved{Free: free}
}

// taken returns what of the reserved bytes is for moves of a drain. The caller
// holds the lock.
func (a *Agent) taken(drain migrate.ID) (sum uint64) {
	for _, r := range a.live {
		if r.offer.Drain == drain {
			sum += r.reserved
		}
	}
	return sum
}

// Room returns the bytes of memory that are promised to moves under way and to
// drains, and the bytes free in the store.
func (a *Agent) Room() (promised, store uint64) {
	here, err := a.free()
	if err != nil {
		a.log.Warn("room", "cause", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reserved + a.drains.promised("", time.Now()), here.StoreAvailable
}

// describe tells the state of this host.
func (a *Agent) describe(ctx context.Context, m transport.Describe) (transport.Description, error) {
	here, err := hostinfo.Describe(ctx, a.tool, a.criuErr, a.cfg.Store)
	if err != nil {
		return transport.Description{}, err
	}
	st := migrate.HostState{Host: here, CPUs: runtime.NumCPU()}
	if st.Cordon, err = cordon.Load(a.cfg.StateDir); err != nil {
		return transport.Description{}, err
	}
	st.Workloads, st.Problems = a.cfg.Operator.Workloads(ctx, m.Blockers)
	a.mu.Lock()
	defer a.mu.Unlock()
	st.Promised = a.reserved + a.drains.promised(m.Drain, time.Now())
	if m.Drain != "" {
		st.Promised -= a.taken(m.Drain)
	}
	return transport.Description{State: st}, nil
}

// operate answers those who plan and operate.
func (a *Agent) operate(ctx context.Context, s *transport.Session, m transport.Message) error {
	if a.cfg.Operator == nil {
		return fmt.Errorf("unexpected %T", m)
	}
	switch m := m.(type) {
	case transport.Describe:
		d, err := a.describe(ctx, m)
		if err != nil {
			return err
		}
		return s.Send(ctx, d)
	case transport.Reserve:
		here, err := a.free()
		if err != nil {
			return err
		}
		return s.Send(ctx, a.reserve(m, here))
	case transport.Cordon, transport.Change, transport.Stop:
		reply, err := a.cfg.Operator.Operate(ctx, s.Peer(), m)
		if err != nil {
			return err
		}
		return s.Send(ctx, reply)
	}
	return fmt.Errorf("unexpected %T", m)
}
