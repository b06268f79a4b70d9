//go:build slow

package containers

func someOf[T any](cells []T, _ int) []T { return cells }
