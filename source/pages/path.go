package pages

import (
	"migrate/predump"
	"migrate/transport"
)

const (
	// batchBytes is the content of one batch: the knee of ratio and speed.
	batchBytes = 256 << 10
	batchPages = batchBytes / pageSize
	// maxPieces keeps a batch of scattered single pages small.
	maxPieces = 1024
	// maxRun bounds one piece without content; a target takes any 32-bit length.
	maxRun = 1 << 20

	pageSize = predump.PageSize
)

// Options configure a [Path]. All but DeltaCache are required.
type Options struct {
	Table      *predump.Table  // what the target has of each page
	DeltaCache uint64          // bytes kept of what was sent, to send differences
	Lowest     transport.Codec // the codec is between these two, as fits the link
	Highest    transport.Codec
}

// A Path remembers what a move has sent. Its Rounds follow one another.
type Path struct {
	table *predump.Table
	cache *cache
	dups  *dups
	pace  *transport.Adaptive
}

// New returns a path that has sent nothing. Callers close it.
func New(o Options) (*Path, error) {
	c, err := newCache(o.DeltaCache)
	if err != nil {
		return nil, err
	}
	return &Path{table: o.Table, cache: c, dups: newDups(o.Table), pace: transport.NewAdaptive(o.Lowest, o.Highest)}, nil
}

// Forget drops everything that differences could refer to: the target may not
// have received it.
func (p *Path) Forget() { p.cache.clear() }

// Codec is the one that fits the link now. It may be called from any goroutine.
func (p *Path) Codec() transport.Codec { return p.pace.Codec() }

// Close releases the cache.
func (p *Path) Close() error { return p.cache.close() }
