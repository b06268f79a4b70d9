package criu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cpuinfo"
)

// instructionSets names the CPU features a program may have chosen code by:
// CRIU's word of capabilities (each is one CPUID register) and the bit in it.
// CRIU's own check covers these too, but does not say which is missing.
// Bits are from the CPUID tables of Intel's and AMD's manuals.
var instructionSets = []struct {
	name      string
	word, bit int
}{
	{"sse", 0, 25}, {"sse2", 0, 26}, // leaf 1, EDX
	{"rdtscp", 1, 27},                                                                        // leaf 0x80000001, EDX
	{"sse3", 4, 0}, {"pclmulqdq", 4, 1}, {"monitor", 4, 3}, {"ssse3", 4, 9}, {"cx16", 4, 13}, // leaf 1, ECX
	{"sse4_1", 4, 19}, {"sse4_2", 4, 20}, {"movbe", 4, 22}, {"popcnt", 4, 23}, {"aes", 4, 25},
	{"xsave", 4, 26}, {"osxsave", 4, 27}, {"avx", 4, 28}, {"f16c", 4, 29}, {"rdrand", 4, 30},
	{"lzcnt", 6, 5}, {"sse4a", 6, 6}, {"misalignsse", 6, 7}, {"3dnowprefetch", 6, 8}, // leaf 0x80000001, ECX
	{"xop", 6, 11}, {"fma4", 6, 16}, {"tbm", 6, 21},
	{"fsgsbase", 9, 0}, {"bmi1", 9, 3}, {"hle", 9, 4}, {"avx2", 9, 5}, {"bmi2", 9, 8}, {"erms", 9, 9}, // leaf 7, EBX
	{"rtm", 9, 11}, {"mpx", 9, 14}, {"avx512f", 9, 16}, {"avx512dq", 9, 17}, {"rdseed", 9, 18}, {"adx", 9, 19},
	{"clflushopt", 9, 23}, {"avx512pf", 9, 26}, {"avx512er", 9, 27}, {"avx512cd", 9, 28}, {"sha_ni", 9, 29},
	{"avx512bw", 9, 30}, {"avx512vl", 9, 31},
	{"xsaveopt", 10, 0}, {"xsavec", 10, 1}, {"xgetbv1", 10, 2}, // leaf 0xd subleaf 1, EAX
	{"avx512vbmi", 11, 1}, {"avx512_vbmi2", 11, 6}, {"gfni", 11, 8}, {"vaes", 11, 9}, {"vpclmulqdq", 11, 10}, // leaf 7, ECX
	{"avx512_vnni", 11, 11}, {"avx512_bitalg", 11, 12}, {"avx512_vpopcntdq", 11, 14}, {"rdpid", 11, 22},
	{"clzero", 13, 0},                                  // leaf 0x80000008, EBX
	{"avx512_4vnniw", 18, 2}, {"avx512_4fmaps", 18, 3}, // leaf 7, EDX
}

// missingInstructions lists what the CPU of the image has and this one does
// not. It is empty for machines other than x86.
func missingInstructions(source, here *cpuinfo.CpuinfoEntry) []string {
	if len(source.GetX86Entry()) == 0 || len(here.GetX86Entry()) == 0 {
		return nil
	}
	src, dst := source.GetX86Entry()[0].GetCapability(), here.GetX86Entry()[0].GetCapability()
	var missing []string
	for _, f := range instructionSets {
		if hasBit(src, f.word, f.bit) && !hasBit(dst, f.word, f.bit) {
			missing = append(missing, f.name)
		}
	}
	return missing
}

func hasBit(words []uint32, word, bit int) bool {
	return word < len(words) && words[word]>>bit&1 != 0
}

// nameMissing adds the names to what CRIU said.
func (e *Error) nameMissing(names []string) {
	const most = 12
	if n := len(names); n > most {
		names = append(slices.Clone(names[:most]), fmt.Sprintf("and %d more", n-most))
	}
	if len(names) > 0 {
		e.Cause = fmt.Sprintf("%s: %s", e.Cause, strings.Join(names, ", "))
	}
}
