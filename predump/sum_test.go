package predump

import (
	"bytes"
	"testing"
)

func TestSum(t *testing.T) {
	table := NewTable()
	im := Image{TaskImage, 7}
	page, other := bytes.Repeat([]byte{1}, PageSize), bytes.Repeat([]byte{2}, PageSize)
	s := table.Sum(page)
	if table.Has(im, 0x1000, s) || table.Knows(im) {
		t.Error("an empty table has a page")
	}
	table.make(im, 1).set(1, s.h)
	if !table.Has(im, 0x1000, s) || !table.Knows(im) {
		t.Error("the page that was sent is not there")
	}
	if table.Has(im, 0x1000, table.Sum(other)) || table.Has(im, 0x2000, s) || table.Knows(Image{TaskImage, 8}) {
		t.Error("the table has what was not sent")
	}
}
