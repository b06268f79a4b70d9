package pages

import (
	"migrate/predump"
	"migrate/transport"
)

// maxDups bounds the index: some 16 MiB.
const maxDups = 1 << 18

// dups finds pages that the target has with the same content elsewhere, such
// as those that a fork shares. It belongs to the goroutine that feeds a round.
type dups struct {
	table *predump.Table
	index map[predump.Sum]place
}

func newDups(t *predump.Table) *dups {
	return &dups{table: t, index: map[predump.Sum]place{}}
}

// find returns a page that has the content of page on the target, when
// everything before this page is applied there. It remembers page for later
// ones; who asks must send it then.
//
// first is the first of the pages that are sent in one go with this one. The
// table does not know of them yet: what it has of those before this page is not
// on the target any more then.
func (d *dups) find(k place, first uint64, page []byte) (transport.Ref, bool) {
	sum := d.table.Sum(page)
	at, ok := d.index[sum]
	gone := at.im == k.im && at.page >= first && at.page <= k.page
	if ok && !gone && d.table.Has(at.im, at.page*pageSize, sum) {
		return transport.Ref{ImageType: at.im.Type, Image: at.im.ID, Address: at.page * pageSize}, true
	}
	if ok || len(d.index) < maxDups {
		d.index[sum] = k
	}
	return transport.Ref{}, false
}
