//go:build !linux

package slab

// advise does nothing: huge pages are asked for on Linux only.
func advise[T any]([]T) {}
