package redisload

import (
	"encoding/json"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestRecord(t *testing.T) {
	var all []byte
	for _, i := range []int{0, 1, 12345678} {
		for _, v := range []uint32{0, 7, 4294967295} {
			r := Record(i, v)
			var fields struct{ V, ID uint64 }
			if err := json.Unmarshal(r, &fields); err != nil || fields.V != uint64(v) || fields.ID != uint64(i) {
				t.Errorf("record %d version %d: %v: %s", i, v, err, r)
			}
			for _, text := range [][]byte{r, r[:headLen+1]} {
				if got, err := version(text); got != v || err != nil {
					t.Errorf("version of %.20s: %d, %v", text, got, err)
				}
			}
		}
	}
	for i := range 1000 {
		all = append(all, Record(i, 0)...)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	// Memory of redis servers in use was seen to compress 3.1 times.
	ratio := float64(len(all)) / float64(len(z.EncodeAll(all, nil)))
	t.Logf("%d bytes a record, zstd %.2f", len(all)/1000, ratio)
	if ratio < 2.5 || ratio > 3.5 {
		t.Errorf("zstd makes %.2f out of records", ratio)
	}
}

func TestNoVersion(t *testing.T) {
	for _, s := range []string{"", `{"v":`, `{"v":12`, `{"v":x,`, `{"v":4294967296,`} {
		if v, err := version([]byte(s)); err == nil {
			t.Errorf("version of %q: %d", s, v)
		}
	}
}
