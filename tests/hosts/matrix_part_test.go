//go:build !slow

package hosts

const wholeMatrix = false
