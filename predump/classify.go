package predump

// Verdict says what to do with a page of the final dump.
type Verdict uint8

// The verdicts.
const (
	Zero Verdict = 1 // it is all zeros
	Have Verdict = 2 // the target has this content already
	Send Verdict = 3
)

// String returns the verdict's name.
func (v Verdict) String() string {
	switch v {
	case Zero:
		return "zero"
	case Have:
		return "have"
	case Send:
		return "send"
	}
	return "invalid"
}

// Run is some pages, one after the other in memory, of equal verdict.
type Run struct {
	Verdict Verdict
	Addr    uint64
	Pages   uint64
}

// Classify compares the page at addr, given its content, with what was sent.
// A nil Table has nothing of any page.
func (t *Table) Classify(im Image, addr uint64, page []byte) Verdict {
	var runs [1]Run
	return t.Split(runs[:0], im, addr, page)[0].Verdict
}

// Split cuts data, whole pages that begin at addr, into runs of equal verdict
// and appends these to runs. It allocates nothing if runs has room, and does
// not keep data.
func (t *Table) Split(runs []Run, im Image, addr uint64, data []byte) []Run {
	first := len(runs)
	var b *block
	looked := ^uint64(0) // number of the block in b
	for ; len(data) > 0; data, addr = data[PageSize:], addr+PageSize {
		page := addr >> pageShift
		if t != nil && page>>blockBits != looked {
			b, looked = t.find(im, page), page>>blockBits
		}
		v := t.verdict(b, page, data[:PageSize])
		if n := len(runs); n > first && runs[n-1].Verdict == v {
			runs[n-1].Pages++
			continue
		}
		runs = append(runs, Run{v, addr, 1})
	}
	return runs
}

func (t *Table) verdict(b *block, page uint64, content []byte) Verdict {
	if isZero(content) {
		return Zero
	}
	if b == nil {
		return Send
	}
	sent := b.get(page)
	if sent == (hash{}) || sent != t.hash(content) {
		return Send
	}
	return Have
}
