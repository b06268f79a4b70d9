package redisload

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// hotEvery makes every tenth key one that is rewritten, all over the memory.
const hotEvery = 10

// Key returns the name of key number i.
func Key(i int) string { return fmt.Sprintf("user:%08d", i) }

const (
	head    = `{"v":`
	headLen = len(head) + 11 // with a version of any length and what follows it
	length  = 1000           // bytes of a record, but for the last word
)

// Record returns what key number i holds in a version: a JSON text of names,
// times and words, an eighth of it random digits. Words are as unevenly common as
// in a language (Zipf's law).
func Record(i int, version uint32) []byte {
	r := rand.New(rand.NewPCG(uint64(i), uint64(version)))
	z := rand.NewZipf(r, 1.1, 1, uint64(len(words)-1))
	b := make([]byte, 0, length+64)
	b = append(b, head...)
	b = strconv.AppendUint(b, uint64(version), 10)
	b = fmt.Appendf(b, `,"id":%d,"name":"%s %s","session":"`, i, word(z), word(z))
	for range 8 {
		b = fmt.Appendf(b, "%016x", r.Uint64())
	}
	b = append(b, `","seen":[`...)
	for range 4 {
		b = fmt.Appendf(b, "%d,", 1700000000+r.IntN(50_000_000))
	}
	b = append(b, `0],"score":`...)
	b = strconv.AppendUint(b, r.Uint64N(1_000_000), 10)
	b = append(b, `,"about":"`...)
	for len(b) < length {
		b = append(b, word(z)...)
		b = append(b, ' ')
	}
	return append(b, `"}`...)
}

// version reads the version of a record from its first bytes.
func version(record []byte) (uint32, error) {
	rest, ok := bytes.CutPrefix(record, []byte(head))
	digits, _, more := bytes.Cut(rest, []byte(","))
	if !ok || !more {
		return 0, fmt.Errorf("no record: %.40q", record)
	}
	v, err := strconv.ParseUint(string(digits), 10, 32)
	return uint32(v), err
}

// word returns one of 4096 words of two or three syllables.
func word(z *rand.Zipf) string { return words[z.Uint64()] }

var words = func() (list [4096]string) {
	syllables := [16]string{"ba", "cor", "den", "el", "fi", "gam", "ho", "in", "ka", "lun", "mo", "ner", "or", "pis", "ta", "ves"}
	for i := range list {
		list[i] = syllables[i&15] + syllables[i>>4&15]
		if i>>8 != 0 {
			list[i] += syllables[i>>8]
		}
	}
	return list
}()
