package predump

// Sum is the hash of a page's content, as a [Table] keeps it. Sums of
// different Tables cannot be compared.
type Sum struct{ h hash }

// Sum returns the sum of a page.
func (t *Table) Sum(page []byte) Sum {
	h, _ := t.content(page)
	return Sum{h}
}

// Has reports whether the target has, of the page at addr, the content that s
// is of.
func (t *Table) Has(im Image, addr uint64, s Sum) bool {
	return t.known(im, addr>>pageShift) == s.h
}

// Knows reports whether the target has any page of an image.
func (t *Table) Knows(im Image) bool { return (*t.images.Load())[im] != nil }
